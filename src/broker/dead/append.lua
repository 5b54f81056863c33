-- A dead letter goes back to a stream and is gone: both or neither.
-- KEYS: the dead letters' stream, the stream to append to.
-- ARGV: the letter's id; the field that the payload goes to; "1" where there is a payload.
-- Redis undoes nothing of a script that fails half-way, so whatever can be refused is asked first.
local function refused(command, reply)
  return { 'refused', command, reply.err }
end

local found = redis.pcall('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if found.err then return refused('XRANGE', found) end
if #found == 0 then return { 'gone' } end

-- Removes nothing: an id that no entry has. It tells whether the letter can be removed afterwards.
-- (Redis then counts the script as one that has begun to write, and doesn't stop it at `maxmemory`:
-- as it should be, because what is appended is what is removed.)
local removable = redis.pcall('XDEL', KEYS[1], '0-0')
if type(removable) == 'table' then return refused('XDEL', removable) end

local fields, entry = found[1][2], {}
if ARGV[3] == '1' then entry = { ARGV[2], fields[2] } end
-- handlerd's own fields end with the first of this name; what comes behind it is the message's.
local at = 3
while fields[at] and fields[at] ~= 'handlerd-time' do at = at + 2 end
-- Another entry in the letter's place: the stream was made anew meanwhile.
if not fields[at] then return { 'gone' } end
for i = at + 2, #fields do entry[#entry + 1] = fields[i] end
if #entry == 0 then return { 'empty' } end
-- Lua hands over so many arguments and no more.
if #entry > 7000 then return { 'too-many', tostring(#entry / 2) } end

local added = redis.pcall('XADD', KEYS[2], '*', unpack(entry))
if type(added) == 'table' and added.err then return refused('XADD', added) end
redis.call('XDEL', KEYS[1], ARGV[1])
return { 'replayed' }
