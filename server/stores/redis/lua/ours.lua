-- Return the logs that are held by this instance, each as its id and then its epoch. Among them are those of the given
-- ids that have ended: the answer to the append with the ending may be on its way.
-- ARGV: prefix, the name of this instance, the ids of the logs that it knows it holds.
local prefix, me, answer, ids, known = ARGV[1], ARGV[2], {}, redis.call('ZRANGE', ARGV[1] .. 'open', 0, -1), {}
for at = 3, #ARGV do
  known[ARGV[at]] = true
  ids[#ids + 1] = ARGV[at]
end
local seen = {}
for _, id in ipairs(ids) do
  if not seen[id] then
    seen[id] = true
    local log = redis.call('HMGET', prefix .. 'log:' .. id, 'instance', 'epoch', 'ended')
    if log[1] == me or (known[id] and log[3]) then
      answer[#answer + 1] = id
      answer[#answer + 1] = log[2]
    end
  end
end
return answer
