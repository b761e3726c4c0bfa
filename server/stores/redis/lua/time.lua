-- `now()`: the server's own time, in seconds. Put before the scripts that need it: the clocks of instances may differ.
local function now()
  local time = redis.call('TIME')
  return string.format('%d.%06d', time[1], time[2])
end
