"""What the Redis store does in one step on the server, in Lua (https://redis.io/docs/latest/develop/programmability/).

Keys: `log:ID` (a hash), `records:ID` (a Redis Stream; one entry an append, its id the number of its last record),
`key:OWNER:KEY` (the log of an idempotency key), `instance:NAME` (there while its lease runs), and the sorted sets
`logs` (by creation), `open` (without an ending) and `ended`; `total` counts bytes. Channels: `news:ID`, `claims`.
"""

# What is appended is written before it is confirmed, and only by who has the log's epoch.
# A tail that is behind what its writer has shown was lost by a failover: its numbers are noted as lost, not used again.
# A tail that is ahead is this very append, made before its answer was lost on the way: a log one of whose appends has
# failed takes no other until it is claimed again.
# Only what was not simply added is answered, by its place. Who follows a log has said so: nobody else is woken.
APPEND = r"""
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
"""

# Forget keys that these logs still have.
RELEASE = """
local prefix = ARGV[1]
for at = 2, #ARGV, 2 do
  local key = prefix .. 'key:' .. ARGV[at]
  if redis.call('GET', key) == ARGV[at + 1] then redis.call('DEL', key) end
end
return {}
"""

# For each of several beginnings the log of its idempotency key, or a new one; what is asked again makes nothing anew.
CREATE = """
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
"""

# A new epoch. `skip`: how many numbers to pass over where the server that held the log may have lost some.
CLAIM = """
local prefix, id, me, force, server, skip, now =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
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
redis.call('HSET', log, 'epoch', epoch, 'instance', me, 'server', server, 'active', now)
redis.call('PUBLISH', prefix .. 'claims', id .. ' ' .. epoch)
redis.call('PUBLISH', prefix .. 'news:' .. id, '')
return epoch
"""

# The ids of logs without an ending whose holder's lease has run out.
ORPHANS = """
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
"""

_DELETE = """
local prefix = ARGV[1]
local function delete(id)
  local log, records = prefix .. 'log:' .. id, prefix .. 'records:' .. id
  local known = redis.call('HMGET', log, 'key', 'stored')
  if known[1] and known[1] ~= '' and redis.call('GET', prefix .. 'key:' .. known[1]) == id then
    redis.call('DEL', prefix .. 'key:' .. known[1])
  end
  redis.call('DEL', log, records)
  redis.call('ZREM', prefix .. 'logs', id)
  redis.call('ZREM', prefix .. 'open', id)
  redis.call('ZREM', prefix .. 'ended', id)
  if known[2] then redis.call('DECRBY', prefix .. 'total', known[2]) end
end
"""

# Give back logs that are still held by `me` in this epoch; one that nobody has begun, and nobody waits for, goes.
DISOWN = f"""
{_DELETE}
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
"""

# End a lease: these logs can be claimed at once.
GIVE_BACK = """
local prefix, me = ARGV[1], ARGV[2]
for at = 3, #ARGV do
  local log = prefix .. 'log:' .. ARGV[at]
  if redis.call('HGET', log, 'instance') == me then redis.call('HSET', log, 'instance', '') end
end
redis.call('DEL', prefix .. 'instance:' .. me)
"""

# Delete what is over, the orphans that nobody took over, and the oldest ended logs while there is too much.
SWEEP = f"""
{_DELETE}
local over, max, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'ended', '-inf', over, 'LIMIT', 0, limit)) do delete(id) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'open', '-inf', over, 'LIMIT', 0, limit)) do
  local known = redis.call('HMGET', prefix .. 'log:' .. id, 'active', 'instance')
  local held = known[2] and known[2] ~= '' and redis.call('EXISTS', prefix .. 'instance:' .. known[2]) == 1
  if not held and (not known[1] or tonumber(known[1]) <= tonumber(over)) then delete(id) end
end
for _, id in ipairs(redis.call('ZRANGE', prefix .. 'ended', 0, limit - 1)) do
  if tonumber(redis.call('GET', prefix .. 'total') or 0) <= max then break end
  delete(id)
end
"""
