-- KEYS: holder, queue. ARGV: node, inbox, notice
hand_on(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
return true
