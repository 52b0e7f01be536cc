package fleet

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Bounds of the data in Redis.
const (
	maxLog    = 4_096     // entries of the log; each has up to batchSize statements
	maxPlaces = 1_000_000 // prefixes of each kind
	maxNodes  = 10_000
	seenFor   = 30 * time.Second // a node that was heard within this time is present
	nodeGone  = 24 * time.Hour   // an absent node is forgotten
	forgetBan = 30 * 24 * time.Hour
)

// Bounds of a script's reply, below those of a connection. A script leaves out larger values, which no node has written:
// one such value must not keep nodes from the others.
const (
	maxBatch      = 2 << 20 // bytes of an entry's statements
	replyBudget   = 4 << 20
	replyElements = 6_000
	maxName       = 100 // bytes of a node, an instance, an epoch and a prefix
)

// keys are the fleet's keys in Redis. The braces keep them on one node of a cluster.
type keys struct{ meta, log, ends, said, bans, allows, known, nodes, seen string }

func keysOf(name string) keys {
	k := func(part string) string { return "{fsban:" + name + "}:" + part }
	return keys{k("meta"), k("log"), k("ends"), k("said"), k("bans"), k("allows"), k("known"), k("nodes"), k("seen")}
}

func (k *keys) of(kind string) string {
	switch kind {
	case kindBan:
		return k.bans
	case kindAllow:
		return k.allows
	}
	return k.known
}

// begin starts both writing scripts: Redis' time, and the epoch. Without a valid one Redis is empty, and a new epoch begins.
const begin = `
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local function renew()
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'seq', 0)
  return ARGV[1]
end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or #epoch > 100 or not tonumber(redis.call('HGET', KEYS[1], 'seq')) then epoch = renew() end
`

// say takes statements, four arguments each: kind, prefix, text, and the time of removal (0: never). Of two statements about
// one prefix the later stamp holds; others are ignored. No stamp is later than Redis' clock or, after that was set back, the
// latest stamp taken. A statement that is over holds against none. The accepted statements become one entry of the log. The
// number of the batch identifies one that is repeated because its reply was lost.
var say = redis.NewScript(begin + `
local hash = {b = KEYS[5], a = KEYS[6], g = KEYS[7]}
local top = tonumber(redis.call('HGET', KEYS[1], 'top') or 0) or 0
local limit = math.max(us, top + 1)
local mark = ARGV[3] .. ' ' .. ARGV[4]
local again = redis.call('HGET', KEYS[4], ARGV[2]) == mark
local out, taken, full = {}, {}, 0
for i = 7, #ARGV, 4 do
  local kind, field, text, ends = ARGV[i], ARGV[i+1], ARGV[i+2], tonumber(ARGV[i+3])
  local key = hash[kind]
  if not key then
    if not again then out[#out+1] = kind .. ' ' .. field .. ' ' .. text end
  else
    local stamp = tonumber(string.sub(text, 1, 16), 16)
    if stamp > limit then
      stamp = limit
      local head, rest = string.match(text, '^%x+([^{]*){(.*)$')
      if head then -- "z" tells the node which of its statements this is
        text = string.format('%016x', stamp) .. head .. '{"z":"' .. string.sub(text, 1, 16) .. '"' .. (rest == '}' and '' or ',') .. rest
      end
    end
    local old = redis.call('HGET', key, field)
    local before = old and tonumber(string.sub(old, 1, 16), 16) or 0
    local over = old and tonumber(string.match(old, '"u":(%d+)') or '')
    if over and over * 1000 <= us then before = 0 end
    if before >= stamp and before <= limit then
      -- known already
    elseif not old and redis.call('HLEN', key) >= tonumber(ARGV[6]) then
      full = full + 1
    else
      taken[#taken+1] = {key, field, text, ends, kind .. ' ' .. field}
      top = math.max(top, stamp)
      out[#out+1] = kind .. ' ' .. field .. ' ' .. text
    end
  end
end
if #out > 0 then -- the log first: an error here leaves everything to be repeated
  local function add()
    local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
    return redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], seq .. '-0', 'n', ARGV[2], 'i', ARGV[3], 'c', ARGV[4],
      'd', table.concat(out, '\n'))
  end
  local added = add()
  if type(added) == 'table' and added.err and string.find(added.err, 'equal or smaller') then -- another program has written to it
    epoch = renew()
    added = add()
  end
  if type(added) == 'table' and added.err then return added end
  for _, s in ipairs(taken) do
    redis.call('HSET', s[1], s[2], s[3])
    if s[4] > 0 then redis.call('ZADD', KEYS[3], 'GT', s[4], s[5]) else redis.call('ZREM', KEYS[3], s[5]) end
  end
  redis.call('HSET', KEYS[1], 'top', string.format('%.0f', top))
  if ARGV[4] ~= '0' then redis.call('HSET', KEYS[4], ARGV[2], mark) end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', t[1], 'LIMIT', 0, 64)) do
  local key = hash[string.sub(member, 1, 1)]
  if key then redis.call('HDEL', key, string.sub(member, 3)) end
  redis.call('ZREM', KEYS[3], member)
end
return {epoch, redis.call('HGET', KEYS[1], 'seq'), us, full}
`)

// beat records that a node is present, and forgets nodes that are long absent. A log with a foreign entry is begun anew.
var beat = redis.NewScript(begin + `
local after = string.format('%.0f', (redis.call('HGET', KEYS[1], 'seq') or 0) + 1)
if #redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', 1) > 0 then epoch = renew() end
local before = redis.call('HGET', KEYS[3], ARGV[2])
if before or redis.call('HLEN', KEYS[3]) < tonumber(ARGV[4]) then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
  redis.call('ZADD', KEYS[4], t[1], ARGV[2])
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', t[1] - ARGV[5], 'LIMIT', 0, 64)) do
  redis.call('HDEL', KEYS[3], node)
  redis.call('HDEL', KEYS[5], node)
  redis.call('ZREM', KEYS[4], node)
end
if before and #before > tonumber(ARGV[7]) then before = false end
return {epoch, redis.call('HGET', KEYS[1], 'seq'), us, redis.call('ZCOUNT', KEYS[4], t[1] - ARGV[6], '+inf'), before}
`)

// brief gives reading scripts a function that returns an entry of the log as id, node, instance, counter and statements, and
// one larger than ARGV[1] bytes without the last four.
const brief = `
local function brief(entry)
  local value = {n = '', i = '', c = '', d = ''}
  for i = 1, #entry[2], 2 do
    if value[entry[2][i]] then value[entry[2][i]] = entry[2][i+1] end
  end
  if #value.n > 100 or #value.i > 100 or #value.c > 100 or #value.d > tonumber(ARGV[1]) then return {entry[1], '', '', '', ''} end
  return {entry[1], value.n, value.i, value.c, value.d}
end
`

// look returns epoch, end of the log, Redis' time, and the entry of the log with the id ARGV[2].
var look = redis.NewScript(brief + `
local t = redis.call('TIME')
local epoch, seq = redis.call('HGET', KEYS[1], 'epoch') or '', redis.call('HGET', KEYS[1], 'seq') or ''
if #epoch > 100 or #seq > 100 then epoch, seq = '', '' end
local out = {epoch, seq, t[1] * 1000000 + t[2], 0}
if ARGV[2] ~= '' then
  local found = redis.call('XRANGE', KEYS[2], ARGV[2], ARGV[2])
  if found[1] then out[5] = brief(found[1]) end
end
return out
`)

// browse returns entries of the log from the id ARGV[2] on: at most ARGV[3], and not much more than ARGV[4] bytes.
var browse = redis.NewScript(brief + `
local out, size, from = {}, 0, ARGV[2]
for _ = 1, tonumber(ARGV[3]) do
  local found = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)
  if not found[1] then break end
  local entry = brief(found[1])
  size = size + #entry[5]
  if #out > 0 and size > tonumber(ARGV[4]) then break end
  out[#out+1] = entry
  from = '(' .. entry[1]
end
return out
`)

// scan returns the next cursor, the number of fields or values that are too long, and fields and values of a hash.
var scan = redis.NewScript(`
local count = tonumber(ARGV[2])
while true do
  local r = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', count)
  local out, size, skipped = {}, 0, 0
  for i = 1, #r[2], 2 do
    local field, value = r[2][i], r[2][i+1]
    if #field <= 100 and #value <= tonumber(ARGV[3]) then
      out[#out+1], out[#out+2] = field, value
      size = size + #field + #value
    else
      skipped = skipped + 1
    end
  end
  if count == 1 or (size <= tonumber(ARGV[4]) and #out <= tonumber(ARGV[5])) then return {r[1], skipped, out} end
  count = math.max(1, math.floor(count / 4))
end
`)

// roster returns name, time of the last beat and description of the ARGV[1] nodes heard last.
var roster = redis.NewScript(`
local seen = redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
local out, size = {}, 0
for i = 1, #seen, 2 do
  local text = #seen[i] <= 100 and redis.call('HGET', KEYS[2], seen[i])
  if text and #text <= tonumber(ARGV[2]) and size + #text <= tonumber(ARGV[3]) then
    size = size + #text
    out[#out+1], out[#out+2], out[#out+3] = seen[i], seen[i+1], text
  end
end
return out
`)

// A reply is the reply to a script that knows the end of the log.
type reply struct {
	epoch string
	seq   uint64
	full  int
	nodes int
	last  string // sum of the entry asked for; empty: there is none
}

// values runs a script and returns the values of its reply, at least n.
func values(ctx context.Context, c *redis.Client, script *redis.Script, n int, keys []string, args ...any) ([]any, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	list, err := script.Run(ctx, c, keys, args...).Slice()
	if err == nil && len(list) < n {
		err = fmt.Errorf("a reply of %d values, %d expected", len(list), n)
	}
	return list, err
}

// run runs a script that returns epoch, end of the log, time and a number, and sets the clock.
func (f *Fleet) run(ctx context.Context, c *redis.Client, script *redis.Script, keys []string, args ...any) (r reply, rest []any,
	err error) {
	asked := f.opts.Now()
	list, err := values(ctx, c, script, 4, keys, args...)
	if err != nil {
		return r, nil, err
	}
	r.epoch, _ = list[0].(string)
	if text, ok := list[1].(string); ok {
		r.seq, _ = strconv.ParseUint(text, 10, 64)
	}
	us, _ := list[2].(int64)
	if err := f.clock.heard(time.UnixMicro(us), asked, f.opts.Now()); err != nil {
		return r, nil, err
	}
	n, _ := list[3].(int64)
	r.full, r.nodes = int(min(max(n, 0), batchSize)), int(min(max(n, 0), maxNodes))
	return r, list[4:], nil
}

// look asks, without writing, for the end of the log and for the entry numbered at.
func (f *Fleet) look(ctx context.Context, at uint64) (reply, error) {
	id := ""
	if at != 0 {
		id = strconv.FormatUint(at, 10) + "-0"
	}
	r, rest, err := f.run(ctx, f.clients.Load().in, look, []string{f.keys.meta, f.keys.log}, maxBatch, id)
	if err == nil && len(rest) > 0 {
		if e, ok := entryOf(rest[0]); ok {
			r.last = e.sum()
		}
	}
	return r, err
}
