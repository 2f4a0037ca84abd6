-- KEYS: holder, queue. ARGV: node
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then return 1 end
if not holder then
  redis.call('LREM', KEYS[2], 0, ARGV[1])
  redis.call('SET', KEYS[1], ARGV[1], 'PX', TURN)
  return 1
end
if not redis.call('LPOS', KEYS[2], ARGV[1]) then redis.call('RPUSH', KEYS[2], ARGV[1]) end
redis.call('PEXPIRE', KEYS[2], 60000)
return 0
