-- Say which of the commands that a replica needs this user may not run.
--
-- KEYS: one key that nobody uses.
-- ARGV[4]: the fleet's key.
-- Returns their names.
-- Invariants: nothing is changed. Before Redis 7, which can be asked, each is tried in a form that does nothing.
-- Called by the doctor.

local key, fleet, channel = KEYS[1], ARGV[4], ARGV[2]
local needed = {
  {'DEL', key}, {'TIME'}, {'TYPE', key}, {'MGET', key}, {'PTTL', key}, {'HMGET', key, 'f'}, {'HLEN', key}, {'XREVRANGE', key, '+', '-'},
  {'ZCARD', fleet}, {'ZRANGE', fleet, '0', '0'}, {'ZSCORE', fleet, 'm'},
  {'SET', key, '', 'XX', 'PX', '1000'}, {'PEXPIRE', key, '1000'}, {'XADD', key, 'NOMKSTREAM', '*', 'f', 'v'},
  {'ZADD', key, 'XX', '0', 'm'}, {'ZREM', key, 'm'}, {'ZREMRANGEBYSCORE', key, '0', '0'}, {'HSET', key, 'f', 'v'},
  {'PUBLISH', channel, ''},
}

local function refused(words)
  if redis.acl_check_cmd then return not redis.acl_check_cmd(unpack(words)) end
  local said = redis.pcall(unpack(words))
  local why = type(said) == 'table' and said.err or ''
  return string.find(why, 'NOPERM') or string.find(why, "can't run") or string.find(why, "can't access")
end

local missing = {}
for _, words in ipairs(needed) do
  local clean = words[1] ~= 'HSET' or redis.acl_check_cmd or missing[1] ~= 'DEL' -- what it makes has to go again
  if clean and refused(words) then missing[#missing + 1] = words[1] end
end
if not redis.acl_check_cmd then redis.pcall('DEL', key) end
return missing
