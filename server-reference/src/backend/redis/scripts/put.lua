-- KEYS: value, counter of versions. ARGV: bytes; 'any', 'absent' or a version of 8 bytes; lifetime in ms or ''
local present = redis.call('GETRANGE', KEYS[1], 0, 7)
if ARGV[2] == 'absent' then
  if present ~= '' then return false end
elseif ARGV[2] ~= 'any' and present ~= ARGV[2] then
  return false
end
local version = struct.pack('>I8', redis.call('INCR', KEYS[2]))
redis.call('SET', KEYS[1], version .. ARGV[1])
if ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return version
