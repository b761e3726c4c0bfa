-- Delete one log, if it is there and has ended. delete.lua is put before this file.
-- ARGV: prefix, the id. Returns 1 if it was, or 0.
local id = ARGV[2]
if not redis.call('HGET', prefix .. 'log:' .. id, 'ended') then return 0 end
delete(id)
return 1
