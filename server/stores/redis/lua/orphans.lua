-- Return the ids of logs without an ending whose holder's lease has run out.
-- ARGV: prefix.
local prefix, found, alive = ARGV[1], {}, {[''] = 0}
for _, id in ipairs(redis.call('ZRANGE', prefix .. 'open', 0, -1)) do
  local holder = redis.call('HGET', prefix .. 'log:' .. id, 'instance')
  if holder then
    if alive[holder] == nil then alive[holder] = redis.call('EXISTS', prefix .. 'instance:' .. holder) end
    if alive[holder] == 0 then found[#found + 1] = id end
  else
    redis.call('ZREM', prefix .. 'open', id)
  end
end
return found
