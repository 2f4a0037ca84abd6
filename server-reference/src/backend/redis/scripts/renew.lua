-- KEYS: lease, index. ARGV: name, holder and version, lifetime in ms (0 ends the lease)
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
