-- Forget idempotency keys, if these logs still have them.
-- ARGV: prefix, then key and id of each log.
local prefix = ARGV[1]
for at = 2, #ARGV, 2 do
  local key = prefix .. 'key:' .. ARGV[at]
  if redis.call('GET', key) == ARGV[at + 1] then redis.call('DEL', key) end
end
return {}
