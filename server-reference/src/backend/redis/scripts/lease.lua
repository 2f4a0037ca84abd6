-- KEYS: lease, index, counter of versions. ARGV: name, holder of 8 bytes, lifetime in ms
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, 8) ~= ARGV[2] then return false end
local version = struct.pack('>I8', redis.call('INCR', KEYS[3]))
redis.call('SET', KEYS[1], ARGV[2] .. version, 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return version
