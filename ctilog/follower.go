// Package ctilog follows mod_cti's log file through every kind of rotation and delivers its lines.
//
// A Follower reads the lines appended to the file at a path. It watches the directory, so that it notices at once when the path
// names another file, and it continues to read the renamed file as long as a process may still write to it. It does not
// interpret the lines, and depends on no other package of fsban.
package ctilog

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"
)

// Options configure the start position and the callbacks of a Follower. The zero value of each number selects the default given
// in its comment.
type Options struct {
	// OnLine is called for each line, in Run's goroutine. Lines of one file are delivered in order. If two files are being
	// written to at once, a line is never delivered before one that had been written before it.
	OnLine func(Line)
	// OnStatus is called in Run's goroutine when Following or Err has changed.
	OnStatus func(Status)

	// From is the position where an earlier run stopped. Reading continues there, in a rotated file if necessary. If From is
	// zero or its file no longer exists, reading starts at the beginning.
	From Position
	// Since, with Time, skips older lines of content that is read from its beginning, by a binary search: some older lines may
	// still be delivered. Without From the first reading reaches back into rotated files, too. Since is called in Run's
	// goroutine at each such reading.
	Since func() time.Time
	Time  func(line []byte) (time.Time, bool)
	// FromEnd starts at the end of the existing file if From is zero. Later files are read whole.
	FromEnd bool

	MaxLine int           // 65536: longer lines are cut to this number of bytes
	Poll    time.Duration // 1s: interval of checking everything, with and without inotify
	Quiet   time.Duration // 2s: how long a renamed file must be quiet before it is closed
}

// A Line is one line.
type Line struct {
	Text []byte   // without its newline; valid until OnLine returns
	Next Position // position after this line
	// Torn reports that the beginning may be missing: the first line after a truncation or after lost bytes, or a line across
	// the end that a truncation left. Its first word may be the middle of another one.
	Torn bool
	// Reading numbers the readings of content from its beginning, over all Followers of the process. A rewritten or replaced
	// file starts a new reading, so the same line may occur in several readings; within one, each line of the content is
	// delivered once. It is 0 while reading continues from Options.From: no earlier line is delivered then.
	Reading uint64
	// Since is when the file was last seen without the line, so the line was written after it. It is zero for a line that the
	// file contained when this reading began.
	Since time.Time
	// Unfinished reports that the end is missing: a line longer than MaxLine, or the last line of a file that ends without a
	// newline.
	Unfinished bool
	Cut        bool // the line was longer than MaxLine
}

// A Position is an offset in the file, and one in the file before it, which may still be read then. The zero Position is none.
type Position struct {
	File  Mark `json:"file"`
	Older Mark `json:"older"`
}

// A Mark is an offset in one file, identified by inode number, first bytes, and last bytes before the offset.
type Mark struct {
	Dev    uint64 `json:"dev"`
	Ino    uint64 `json:"ino"`
	Offset int64  `json:"offset"`
	Sum    uint32 `json:"sum"`  // CRC-32C of the first 256 bytes of the file, or of all bytes before Offset if fewer
	Tail   uint32 `json:"tail"` // CRC-32C of the last 256 bytes before Offset; 0 if unknown
}

// A Status is the state of a Follower. All numbers count from the start of Run.
type Status struct {
	Following bool  // a file is open, possibly only a renamed one
	Err       error // why the file cannot be opened or read further; retried every Poll. Nil before Run.
	Polling   error // why inotify is unavailable, so that changes are noticed only every Poll
	Gap       error // why reading did not continue at Options.From

	Files       int // open files: more than one for a while after a rotation
	Position    Position
	LastLine    time.Time
	Bytes       uint64 // read
	Lines       uint64 // delivered to OnLine
	Rotations   uint64 // how often the path named another file
	Truncations uint64 // how often the file was cut or rewritten, and read from its beginning
	Cut         uint64 // lines longer than MaxLine
	NULs        uint64 // NUL bytes skipped: holes that a truncation left
}

// Bounds of memory, files and work.
const (
	bufferSize   = 256 << 10
	maxOpen      = 64               // open files; beyond that, the oldest are closed
	roundBuffers = 64               // buffers read before the directory is checked again
	keepDeleted  = 10 * time.Minute // a deleted file without a successor occupies the disk for as long as it is open
)

// A Follower follows the file at one path. Run does the work, once; Status may be called from any goroutine.
type Follower struct {
	path string
	opts Options

	mu     sync.Mutex
	status Status

	// The fields below belong to Run's goroutine.
	now       Status // becomes status after every look
	newWatch  func() (*watch, error)
	watch     *watch // nil if inotify is unavailable
	noWatch   error  // why watch is nil
	files     []*file
	done      []Mark    // files closed recently, in case one returns
	begun     bool      // the start position was found
	late      bool      // the file did not exist at first
	dirty     bool      // the directory has changed
	checked   time.Time // when the path was last checked
	confirmed time.Time // when the path last named the newest file
	buf       []byte
	place     Position // of the line being delivered
	slot      *Mark    // the part of place for the file being read
	unplaced  Mark     // slot, for a file older than the two in place
}

// NewFollower returns a Follower of the file at path. It starts no goroutine.
func NewFollower(path string, opts Options) *Follower {
	opts.MaxLine = cmp.Or(opts.MaxLine, 64<<10)
	opts.Poll = cmp.Or(opts.Poll, time.Second)
	opts.Quiet = cmp.Or(opts.Quiet, 2*time.Second)
	if opts.OnStatus == nil {
		opts.OnStatus = func(Status) {}
	}
	return &Follower{
		path: path, opts: opts,
		newWatch: newWatch,
		buf:      make([]byte, max(bufferSize, 2*opts.MaxLine)),
	}
}

// Status returns the state of the follower.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Run follows the file until ctx ends. It closes all files and returns ctx's error.
func (f *Follower) Run(ctx context.Context) error {
	f.watch, f.noWatch = f.newWatch()
	defer f.close()
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		f.watch.interrupt()
	})
	defer func() {
		if !stop() {
			<-stopped
		}
	}()
	f.dirty = true
	for {
		more := f.look(ctx, time.Now())
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !more && f.watch.wait(ctx, f.pause()) {
			f.dirty = true
		}
	}
}

func (f *Follower) close() {
	for _, x := range f.files {
		x.close(f.watch)
	}
	f.files = nil
	f.watch.close()
	f.now.Following, f.now.Err = false, nil
	f.publish()
}

// pause returns the time until the next check unless the kernel reports a change.
func (f *Follower) pause() time.Duration {
	for _, x := range f.files {
		if !x.rewrite.calm.IsZero() {
			return min(f.opts.Poll, max(time.Until(x.rewrite.calm), time.Millisecond))
		}
	}
	if len(f.files) > 1 {
		return min(f.opts.Poll, f.opts.Quiet/2)
	}
	return f.opts.Poll
}

// look checks everything once. It reports whether there is more to read.
func (f *Follower) look(ctx context.Context, now time.Time) (more bool) {
	if f.dirty || now.Sub(f.checked) >= f.opts.Poll {
		f.dirty, f.checked = false, now
		f.discover(now)
	}
	lines := f.now.Lines
	more = f.read(ctx, now)
	if f.now.Lines != lines {
		f.now.LastLine = now
	}
	if !more {
		f.release(now)
	}
	f.publish()
	return more
}

// publish publishes the counts, and calls OnStatus if the state has changed.
func (f *Follower) publish() {
	f.now.Files = len(f.files)
	f.mu.Lock()
	was := f.status
	f.status = f.now
	f.mu.Unlock()
	if was.Following != f.now.Following || text(was.Err) != text(f.now.Err) {
		f.opts.OnStatus(f.now)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// discover checks whether the path names another file than the newest open one. If so, it opens that file and those that were
// at the path in between.
func (f *Follower) discover(now time.Time) {
	f.now.Polling = f.watching()
	next, err := f.openNext()
	f.now.Err = err
	switch {
	case !f.begun:
		f.begin(next)
	case next != nil:
		files := []*file{next}
		if last := f.newest(); last != nil {
			f.now.Rotations++
			files = append(f.between(last, next), next)
		}
		for _, x := range files {
			f.skipOld(x)
			f.follow(x)
		}
	}
	if err == nil {
		f.confirmed = now
	}
	f.now.Following = len(f.files) > 0
}

// watching watches the directories and files with inotify, and returns the reason for any that cannot be watched.
func (f *Follower) watching() error {
	if f.watch == nil {
		return f.noWatch
	}
	err := f.watch.directories(f.path)
	for _, x := range f.files {
		if x.watchErr != nil {
			x.watch(f.watch)
		}
		err = cmp.Or(err, x.watchErr)
	}
	return err
}

// openNext opens the file at the path, unless it is the newest open one.
func (f *Follower) openNext() (*file, error) {
	info, err := statRegular(f.path)
	if err != nil {
		return nil, explain(f.path, err)
	}
	if last := f.newest(); last != nil && last.id == idOf(info) {
		return nil, nil
	}
	x, err := openFile(f.path)
	if err != nil {
		return nil, explain(f.path, err)
	}
	// A renamed file that returns to the path continues at its offset.
	for i, known := range f.files {
		if known.id == x.id {
			x.close(nil)
			f.files = append(append(f.files[:i:i], f.files[i+1:]...), known)
			return nil, nil
		}
	}
	for _, m := range f.done {
		if m.Dev == x.id.dev && m.Ino == x.id.ino && x.matches(m) {
			x.seek(m.Offset)
		}
	}
	return x, nil
}

// newest returns the file that the path named last; nil if none is open.
func (f *Follower) newest() *file {
	if len(f.files) == 0 {
		return nil
	}
	return f.files[len(f.files)-1]
}

// follow makes x the newest file. Its predecessor is kept open until it has been quiet for a while from now on.
func (f *Follower) follow(x *file) {
	now := time.Now()
	if last := f.newest(); last != nil {
		last.changed = now
	}
	x.changed = now
	x.watch(f.watch)
	f.files = append(f.files, x)
}

// release closes files that are finished.
func (f *Follower) release(now time.Time) {
	for i := 0; i < len(f.files); {
		x := f.files[i]
		if !f.finished(x, now) {
			i++
			continue
		}
		f.locate(i)
		f.finish(x)
		f.done = append(f.done, x.mark())
		if len(f.done) > maxOpen {
			f.done = f.done[1:]
		}
		x.close(f.watch)
		f.files = append(f.files[:i], f.files[i+1:]...)
	}
}

// finished reports whether x can be closed: it has a successor and is quiet, or it is unreachable.
func (f *Follower) finished(x *file, now time.Time) bool {
	quiet := now.Sub(x.changed)
	switch {
	case x.gone:
		return true
	case x != f.newest():
		return quiet >= f.opts.Quiet || len(f.files) > maxOpen
	}
	return x.deleted && quiet >= keepDeleted && errors.Is(f.now.Err, fs.ErrNotExist)
}
