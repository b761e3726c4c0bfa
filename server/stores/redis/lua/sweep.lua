-- Delete what is over, the orphans that nobody took over, and the oldest ended logs while there is too much.
-- time.lua and delete.lua are put before this file.
-- ARGV: prefix, how many seconds later it is for the caller than here, the retention in seconds, the bound of all logs
-- in bytes, how many logs to delete at once.
local at_present, retention, max, limit = now() + ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local open, ended, kept = prefix .. 'open', prefix .. 'ended', prefix .. 'kept'

local function until_then(set, time)
  return redis.call('ZRANGEBYSCORE', set, '-inf', string.format('%.6f', time), 'LIMIT', 0, limit)
end

for _, id in ipairs(until_then(ended, at_present - retention)) do delete(id) end
for _, id in ipairs(until_then(kept, at_present)) do delete(id) end
for _, id in ipairs(until_then(open, at_present - retention)) do
  local known = redis.call('HMGET', prefix .. 'log:' .. id, 'active', 'instance', 'retention')
  local held = known[2] and known[2] ~= '' and redis.call('EXISTS', prefix .. 'instance:' .. known[2]) == 1
  local own = tonumber(known[3] or '') or retention
  if not held and (not known[1] or tonumber(known[1]) + own <= at_present) then delete(id) end
end

-- Of the logs with a retention of their own the one that is over first counts as the oldest.
local function oldest()
  local one, other = redis.call('ZRANGE', ended, 0, 0, 'WITHSCORES'), redis.call('ZRANGE', kept, 0, 0)[1]
  if not (one[1] and other) then return one[1] or other end
  local at = redis.call('HGET', prefix .. 'log:' .. other, 'ended')
  return at and tonumber(one[2]) <= tonumber(at) and one[1] or other
end

for _ = 1, limit do
  local id = tonumber(redis.call('GET', prefix .. 'total') or 0) > max and oldest()
  if not id then break end
  delete(id)
end
