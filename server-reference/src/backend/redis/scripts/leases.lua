-- KEYS: index. ARGV: prefix of names, prefix of leases
local found, from = {}, ARGV[1] == '' and '-' or '[' .. ARGV[1]
local to = ARGV[1] == '' and '+' or '[' .. ARGV[1] .. '\255'
for _, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], from, to)) do
  local held = redis.call('GET', ARGV[2] .. name)
  if held then
    found[#found + 1] = name
    found[#found + 1] = string.sub(held, 1, 8)
  else
    redis.call('ZREM', KEYS[1], name)
  end
end
return found
