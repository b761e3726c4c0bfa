-- Give back logs that this instance still holds in the given epoch. A log that nobody has begun and nobody follows is
-- deleted. delete.lua is put before this file.
-- ARGV: prefix, the name of this instance, then id and epoch of each log.
local me = ARGV[2]
for at = 3, #ARGV, 2 do
  local id, log = ARGV[at], prefix .. 'log:' .. ARGV[at]
  local known = redis.call('HMGET', log, 'instance', 'epoch', 'tail', 'followed')
  if known[1] == me and known[2] == ARGV[at + 1] then
    if known[2] == '1' and known[3] == '0' and known[4] == '0' then
      delete(id)
    else
      redis.call('HSET', log, 'instance', '')
      redis.call('PUBLISH', prefix .. 'news:' .. id, '')
    end
  end
end
