-- Delete what is over, the orphans that nobody took over, and the oldest ended logs while there is too much.
-- time.lua and delete.lua are put before this file.
-- ARGV: prefix, the seconds after which what ended is over, the bound of all logs in bytes, how many logs to delete at
-- once.
local over, max, limit = string.format('%.6f', now() - ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'ended', '-inf', over, 'LIMIT', 0, limit)) do delete(id) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'open', '-inf', over, 'LIMIT', 0, limit)) do
  local known = redis.call('HMGET', prefix .. 'log:' .. id, 'active', 'instance')
  local held = known[2] and known[2] ~= '' and redis.call('EXISTS', prefix .. 'instance:' .. known[2]) == 1
  if not held and (not known[1] or tonumber(known[1]) <= tonumber(over)) then delete(id) end
end
for _, id in ipairs(redis.call('ZRANGE', prefix .. 'ended', 0, limit - 1)) do
  if tonumber(redis.call('GET', prefix .. 'total') or 0) <= max then break end
  delete(id)
end
