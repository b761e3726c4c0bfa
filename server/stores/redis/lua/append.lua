-- Append records to many logs. Only the instance that has a log's epoch may append to it.
--
-- An append is written before it is confirmed. A tail that is behind what the writer has shown was lost by a failover:
-- its numbers are noted as lost, and are not used again. A tail that is ahead is this very append, made before its
-- answer was lost on the way: a log with a failed append takes no other one until it is claimed again.
--
-- ARGV: prefix, milliseconds until the server itself deletes an ended log, the time, then one string per append
-- (`argument` in log.py makes it).
-- Returns 'PLACE ANSWER' for each append that was not simply added: 'gone', 'fenced', 'ended', or the new list of lost
-- runs. Followers have noted in the log that they follow it: nobody else is woken.
local prefix, retention, now, answers, total = ARGV[1], ARGV[2], ARGV[3], {}, 0
for at = 4, #ARGV do
  local id, epoch, first, last, size, target, ended, ending_size, rest = string.match(
    ARGV[at], '^(%S+) (%d+) (%d+) (%d+) (%d+) (%S*) (%S*) (%d+)\n()')
  local log = prefix .. 'log:' .. id
  local known = redis.call('HMGET', log, 'epoch', 'tail', 'ended', 'lost', 'stored', 'followed')
  local answer
  if not known[1] then
    answer = 'gone'
  elseif known[1] ~= epoch then
    answer = 'fenced'
  elseif tonumber(known[2]) < tonumber(last) and known[3] then
    answer = 'ended'
  elseif tonumber(known[2]) < tonumber(last) then
    if tonumber(known[2]) < tonumber(first) - 1 then
      local run = string.format('[%d,%d]', tonumber(known[2]) + 1, tonumber(first) - 1)
      answer = known[4] == '[]' and '[' .. run .. ']' or string.sub(known[4], 1, -2) .. ',' .. run .. ']'
      redis.call('HSET', log, 'lost', answer)
    end
    local entry = string.sub(ARGV[at], rest + ending_size)
    local stored = string.format('%d', tonumber(known[5] or 0) + #entry)
    redis.call('XADD', prefix .. 'records:' .. id, last .. '-0', 'r', entry)
    redis.call('HSET', log, 'tail', last, 'size', size, 'active', now, 'target', target, 'stored', stored)
    total = total + #entry
    if ended ~= '' then
      local ending = string.sub(ARGV[at], rest, rest + ending_size - 1)
      redis.call('HSET', log, 'ended', ended, 'ending', ending, 'instance', '')
      redis.call('ZREM', prefix .. 'open', id)
      redis.call('ZADD', prefix .. 'ended', ended, id)
      redis.call('PEXPIRE', log, retention)
      redis.call('PEXPIRE', prefix .. 'records:' .. id, retention)
    end
    if known[6] ~= '0' then redis.call('PUBLISH', prefix .. 'news:' .. id, last) end
  end
  if answer then answers[#answers + 1] = (at - 4) .. ' ' .. answer end
end
if total > 0 then redis.call('INCRBY', prefix .. 'total', total) end
return answers
