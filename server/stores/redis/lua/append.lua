-- Append records to many logs. Only the instance that has a log's epoch may append to it.
--
-- An append is written before it is confirmed. A tail that is behind what the writer has shown was lost by a failover:
-- its numbers are noted as lost, and are not used again. A tail that is ahead is this very append, made before its
-- answer was lost on the way: a log with a failed append takes no other one until it is claimed again.
--
-- time.lua is put before this file.
-- ARGV: prefix, the retention in seconds, seconds beyond a retention after which the server itself deletes an ended log,
-- then one string per append (`argument` in log.py makes it). Its first line holds numbers and the log's id. The target's name, the ending and the
-- records follow by their sizes: names are chosen by clients, and must not be taken for anything else.
-- Returns 'PLACE ANSWER' for each append that was not simply added: 'gone', 'fenced', 'ended', 'unwritable', or the new
-- list of lost runs. Followers have noted in the log that they follow it: nobody else is woken.
local prefix, retention, beyond = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local at_present, answers, total = now(), {}, 0

local function append(argument)
  local id, epoch, first, last, size, target_size, ending_size, rest = string.match(
    argument, '^(%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)\n()')
  if not id then return 'unwritable' end
  local log = prefix .. 'log:' .. id
  local known = redis.call('HMGET', log, 'epoch', 'tail', 'ended', 'lost', 'stored', 'followed', 'retention')
  if not known[1] then return 'gone' end
  if known[1] ~= epoch then return 'fenced' end
  if tonumber(known[2]) >= tonumber(last) then return end
  if known[3] then return 'ended' end
  local ending_at = rest + target_size
  local entry = string.sub(argument, ending_at + ending_size)
  redis.call('XADD', prefix .. 'records:' .. id, last .. '-0', 'r', entry)
  local answer
  if tonumber(known[2]) < tonumber(first) - 1 then
    local run = string.format('[%d,%d]', tonumber(known[2]) + 1, tonumber(first) - 1)
    answer = known[4] == '[]' and '[' .. run .. ']' or string.sub(known[4], 1, -2) .. ',' .. run .. ']'
    redis.call('HSET', log, 'lost', answer)
  end
  local stored = string.format('%d', tonumber(known[5] or 0) + #entry)
  redis.call('HSET', log, 'tail', last, 'size', size, 'active', at_present, 'stored', stored,
    'target', string.sub(argument, rest, ending_at - 1))
  total = total + #entry
  if ending_size ~= '0' then
    local ending = string.sub(argument, ending_at, ending_at + ending_size - 1)
    redis.call('HSET', log, 'ended', at_present, 'ending', ending, 'instance', '')
    redis.call('ZREM', prefix .. 'open', id)
    local own = tonumber(known[7] or '')
    if own then
      redis.call('ZADD', prefix .. 'kept', string.format('%.6f', at_present + own), id)
    else
      redis.call('ZADD', prefix .. 'ended', at_present, id)
    end
    local milliseconds = string.format('%.0f', ((own or retention) + beyond) * 1000)
    redis.call('PEXPIRE', log, milliseconds)
    redis.call('PEXPIRE', prefix .. 'records:' .. id, milliseconds)
  end
  if known[6] ~= '0' then redis.call('PUBLISH', prefix .. 'news:' .. id, last) end
  return answer
end

for at = 4, #ARGV do
  local made, answer = pcall(append, ARGV[at])
  if not made then
    -- What is wrong with one log concerns no other one. Anything else (no memory, a replica) is wrong with the server:
    -- it comes with the first write, and the whole batch is made again.
    local message = type(answer) == 'table' and answer.err or tostring(answer)
    if not (string.find(message, 'WRONGTYPE ', 1, true) or string.find(message, 'ERR ', 1, true)) then
      error(answer, 0)
    end
    answer = 'unwritable'
  end
  if answer then answers[#answers + 1] = (at - 4) .. ' ' .. answer end
end
if total > 0 then redis.call('INCRBY', prefix .. 'total', total) end
return answers
