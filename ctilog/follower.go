// Package ctilog follows mod_cti's log file through every kind of rotation: lines out.
//
// A Follower reads what is appended to the file at a path. It watches the directory, so that it notices at once when the
// path comes to mean another file, and it goes on reading the renamed file for as long as somebody may still write to it.
// It knows nothing of what the lines say, and no other room of fsban.
package ctilog

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"
)

// Options say where a Follower begins, and what it tells. The zero value of each number stands for the default beside it.
type Options struct {
	// OnLine is called for each line, in Run's goroutine. Lines of one file come in their order. Between two files that
	// are being written to at once, a line never comes before one that had been written before it.
	OnLine func(Line)
	// OnStatus is called in Run's goroutine when Following changed, or Err.
	OnStatus func(Status)

	// From is where an earlier run stopped; reading goes on there, in a rotated file if need be. Zero, or when that file
	// is gone: at the beginning.
	From Position
	// Since, with Time, skips lines that are older, by a binary search, so that some older lines may come nonetheless.
	// Without From it reaches back into the rotated files, too.
	Since time.Time
	Time  func(line []byte) (time.Time, bool)
	// FromEnd begins at the end of the file that is there, without From. Files that come later are read whole.
	FromEnd bool

	MaxLine int           // 65536: longer lines are cut to so many bytes
	Poll    time.Duration // 1s: how often everything is looked at, whatever the kernel tells
	Quiet   time.Duration // 2s: how long nothing must come from a renamed file until it is let go
}

// A Line is one line.
type Line struct {
	Text []byte   // without its newline; valid until OnLine returns
	Next Position // where reading goes on after this line
	// Torn says that the beginning may be missing: the first line after a truncation, or after bytes that were lost. Its
	// first word may be the middle of another one.
	Torn bool
	// Backlog says that the line lay there already when following began, Again that it may have been given out by an earlier
	// run besides, because reading could not go on at Options.From (Status.Gap).
	Backlog, Again bool
	// Unfinished says that the end is missing: a line longer than MaxLine, or the last one of a file that ends without a
	// newline.
	Unfinished bool
}

// A Position is a place in the file, and in the one before it, which may still be read then. The zero Position is none.
type Position struct {
	File  Mark `json:"file"`
	Older Mark `json:"older"`
}

// A Mark is a place in one file, which it tells from others by inode number and first bytes.
type Mark struct {
	Dev    uint64 `json:"dev"`
	Ino    uint64 `json:"ino"`
	Offset int64  `json:"offset"`
	Sum    uint32 `json:"sum"` // CRC-32C of the file's first 256 bytes, or of as many as lie before Offset
}

// A Status says what a Follower is doing. All numbers count from the start of Run.
type Status struct {
	Following bool  // a file is open, if only one that was renamed
	Err       error // why the file at the path cannot be read, or not on; it is tried again every Poll
	Polling   error // why the kernel does not tell of changes, so that they are noticed only every Poll
	Gap       error // why reading did not go on at Options.From

	Files       int // that are open: more than one for a while after a rotation
	Position    Position
	LastLine    time.Time
	Bytes       uint64 // read
	Lines       uint64 // given to OnLine
	Rotations   uint64 // the path came to mean another file
	Truncations uint64 // the file was cut, or written anew
	Cut         uint64 // lines longer than MaxLine
	NULs        uint64 // NUL bytes skipped: holes that a truncation left
}

// The bounds of what is held at once.
const (
	bufferSize   = 256 << 10
	maxOpen      = 64               // files; of more, the oldest are given up
	roundBuffers = 64               // read in one look, before the directory is looked at again
	keepDeleted  = 10 * time.Minute // a deleted file without a successor occupies the disk for as long as it is open
)

// A Follower follows the file at one path. Run does the work, once; Status may be called from any goroutine.
type Follower struct {
	path string
	opts Options

	mu     sync.Mutex
	status Status

	// What follows is for Run's goroutine alone.
	now       Status // becomes status after every look
	newWatch  func() (*watch, error)
	watch     *watch // nil when the kernel does not tell
	noWatch   error  // why
	files     []*file
	done      []Mark    // files that were let go lately, in case one comes back
	begun     bool      // the place to begin was found
	late      bool      // the file was not there at first
	dirty     bool      // the directory has changed
	checked   time.Time // when the path was last looked at
	confirmed time.Time // when the path last meant the newest of files
	buf       []byte
	place     Position // of the line being given out
	slot      *Mark    // the part of place that is the file being read
	unplaced  Mark     // slot, for a file older than the two in place
}

var errNotStarted = errors.New("not started yet")

// NewFollower returns a Follower of the file at path. It starts nothing.
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
		status:   Status{Err: errNotStarted},
	}
}

// Status returns what the follower is doing.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Run follows the file until ctx ends. It returns ctx's error, with everything closed.
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

// pause returns how long there is nothing to do unless the kernel tells of a change.
func (f *Follower) pause() time.Duration {
	if len(f.files) > 1 {
		return min(f.opts.Poll, f.opts.Quiet/2)
	}
	return f.opts.Poll
}

// look looks at everything once. It returns true when there is more to read.
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

// publish makes what was counted visible, and tells of a change.
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

// discover finds out whether the path means another file than the newest that is open, and opens that, and those that
// came and went in between.
func (f *Follower) discover(now time.Time) {
	f.now.Polling = f.watching()
	next, err := f.openNext()
	f.now.Err = err
	switch {
	case !f.begun:
		f.begin(next)
	case next != nil:
		if last := f.newest(); last != nil {
			f.now.Rotations++
			for _, x := range f.between(last, next) {
				f.follow(x)
			}
		}
		f.follow(next)
	}
	if err == nil {
		f.confirmed = now
	}
	f.now.Following = len(f.files) > 0
}

// watching has the kernel tell of changes, and returns why it will not tell of some.
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

// openNext opens the file at the path, unless it is the newest of those that are open.
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
	// A file that was renamed and comes back goes on where it was.
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

// newest returns the file that the path meant last; nil when there is none.
func (f *Follower) newest() *file {
	if len(f.files) == 0 {
		return nil
	}
	return f.files[len(f.files)-1]
}

// follow takes x as the newest file. Its predecessor is not let go before it was quiet from now on.
func (f *Follower) follow(x *file) {
	now := time.Now()
	if last := f.newest(); last != nil {
		last.changed = now
	}
	x.changed = now
	x.watch(f.watch)
	f.files = append(f.files, x)
}

// release lets go of files that are finished.
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

// finished tells whether x need not be kept open: it has a successor and is quiet, or it cannot be reached any more.
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
