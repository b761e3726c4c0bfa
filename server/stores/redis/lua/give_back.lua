-- End a lease: these logs can be claimed at once.
-- ARGV: prefix, the name of this instance, the ids.
local prefix, me = ARGV[1], ARGV[2]
for at = 3, #ARGV do
  local log = prefix .. 'log:' .. ARGV[at]
  if redis.call('HGET', log, 'instance') == me then redis.call('HSET', log, 'instance', '') end
end
redis.call('DEL', prefix .. 'instance:' .. me)
