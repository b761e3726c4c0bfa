-- For each of several beginnings, return the log of its idempotency key, or create a log. Asking twice creates it once.
-- ARGV: prefix, the time, the retention in seconds, the name of this instance, the history of the server's data, then
-- id, key (or ''), beginning and body of each log. Returns the ids.
local prefix, now, retention, me, server = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local function of_key(key)
  local known = key ~= '' and redis.call('GET', prefix .. 'key:' .. key)
  if known then
    local log = redis.call('HMGET', prefix .. 'log:' .. known, 'epoch', 'ended')
    if log[1] and not (log[2] and tonumber(now) >= tonumber(log[2]) + retention) then return known end
  end
end
local answers = {}
for at = 6, #ARGV, 4 do
  local id, key = ARGV[at], ARGV[at + 1]
  local known = of_key(key)
  if not known and redis.call('EXISTS', prefix .. 'log:' .. id) == 0 then
    if key ~= '' then redis.call('SET', prefix .. 'key:' .. key, id) end
    redis.call('HSET', prefix .. 'log:' .. id, 'key', key, 'instance', me, 'server', server, 'beginning', ARGV[at + 2],
      'body', ARGV[at + 3], 'epoch', 1, 'tail', 0, 'size', 0, 'lost', '[]', 'active', now, 'target', '', 'followed', 0)
    redis.call('ZADD', prefix .. 'logs', now, id)
    redis.call('ZADD', prefix .. 'open', now, id)
  end
  answers[#answers + 1] = known or id
end
return answers
