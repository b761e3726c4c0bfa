-- `delete(id)`: remove a log, its records and its idempotency key. Put before the scripts that delete.
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
  redis.call('ZREM', prefix .. 'kept', id)
  if known[2] then redis.call('DECRBY', prefix .. 'total', known[2]) end
end
