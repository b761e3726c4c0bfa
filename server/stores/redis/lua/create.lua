-- For each of several beginnings, return the log of its idempotency key, or create a log. Asking twice creates it once.
-- time.lua is put before this file.
-- ARGV: prefix, the retention in seconds, the name of this instance, the history of the server's data, then id, key (or
-- ''), beginning, body and own retention (or '') of each log. Returns the ids.
local prefix, retention, me, server, at_present = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], now()
local function of_key(key)
  local known = key ~= '' and redis.call('GET', prefix .. 'key:' .. key)
  if known then
    local log = redis.call('HMGET', prefix .. 'log:' .. known, 'epoch', 'ended', 'retention')
    local kept = tonumber(log[3] or '') or retention
    if log[1] and not (log[2] and tonumber(at_present) >= tonumber(log[2]) + kept) then return known end
  end
end
local answers = {}
for at = 5, #ARGV, 5 do
  local id, key = ARGV[at], ARGV[at + 1]
  local known = of_key(key)
  if not known and redis.call('EXISTS', prefix .. 'log:' .. id) == 0 then
    if key ~= '' then redis.call('SET', prefix .. 'key:' .. key, id) end
    redis.call('HSET', prefix .. 'log:' .. id, 'key', key, 'instance', me, 'server', server, 'beginning', ARGV[at + 2],
      'body', ARGV[at + 3], 'epoch', 1, 'tail', 0, 'size', 0, 'lost', '[]', 'active', at_present, 'target', '', 'followed', 0,
      'retention', ARGV[at + 4])
    redis.call('ZADD', prefix .. 'logs', at_present, id)
    redis.call('ZADD', prefix .. 'open', at_present, id)
  end
  answers[#answers + 1] = known or id
end
return answers
