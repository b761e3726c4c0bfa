-- Begin a new epoch of a log. time.lua is put before this file.
-- ARGV: prefix, id, the name of this instance, 1 to claim a log that a living instance holds, the history of the
-- server's data, how many numbers to pass over if the log was held in another history and may have lost some.
-- Returns the new epoch, or 0 if the log has ended or is held elsewhere.
local prefix, id, me, force, server, skip = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local log = prefix .. 'log:' .. id
local known = redis.call('HMGET', log, 'epoch', 'ended', 'instance', 'server', 'tail', 'lost')
if not known[1] or known[2] then return 0 end
local holder = known[3]
if force ~= '1' and holder ~= '' and holder ~= me and redis.call('EXISTS', prefix .. 'instance:' .. holder) == 1 then
  return 0
end
if holder ~= '' and known[4] ~= server and skip > 0 then
  local run = string.format('[%d,%d]', tonumber(known[5]) + 1, tonumber(known[5]) + skip)
  local lost = known[6] == '[]' and '[' .. run .. ']' or string.sub(known[6], 1, -2) .. ',' .. run .. ']'
  redis.call('HSET', log, 'tail', string.format('%d', tonumber(known[5]) + skip), 'lost', lost)
end
local epoch = tonumber(known[1]) + 1
redis.call('HSET', log, 'epoch', epoch, 'instance', me, 'server', server, 'active', now())
redis.call('PUBLISH', prefix .. 'claims', id .. ' ' .. epoch)
redis.call('PUBLISH', prefix .. 'news:' .. id, '')
return epoch
