package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"viaduct/internal/netdef"
)

// JournalOptions say how a Journal works. The zero value is good.
type JournalOptions struct {
	// Fault is as Options.Fault.
	Fault func(point string)
	// Now is the clock that names copies of damaged files; nil means time.Now.
	Now func() time.Time
	// Log takes what was repaired; nil discards it.
	Log *slog.Logger
	// CompactMin is how many records must have been replaced by later ones
	// before the file is written anew; 0 means 1000.
	CompactMin int
	// UnsafeNoSync leaves out every sync of data. It is there for the test that
	// must lose leases with it when the power is cut, and for nothing else.
	UnsafeNoSync bool

	// sync brings a file's data to disk; nil means datasync.
	sync func(*os.File) error
}

// LeaseChange is one record of the journal: a lease that was made or renewed,
// or one that ended. Of a removed lease only network and address count.
type LeaseChange struct {
	Lease   netdef.Lease
	Removed bool
}

// ErrJournalClosed is what happens to changes that come after Close.
var ErrJournalClosed = errors.New("append lease: journal is closed")

// maxQueue is how many changes wait for the writer before Append blocks.
const maxQueue = 4096

// Recovery is what had to be repaired when a journal was opened.
type Recovery struct {
	// Cut is how many bytes of an unfinished record were cut off the end.
	Cut int64
	// Lost is how many records in the file were unreadable.
	Lost int
	// Copy is the path of the damaged file as it was; "" if none was damaged.
	Copy string
}

// Journal keeps the leases of all networks. One goroutine writes: all changes
// that wait are written and synced together, so load does not mean a sync each.
type Journal struct {
	path     string
	opt      JournalOptions
	fault    faults
	log      *slog.Logger
	recovery Recovery

	mu     sync.Mutex
	room   sync.Cond // the queue was taken
	queue  []pendingChange
	closed bool
	wake   chan struct{} // holds one token while there is something for the writer
	ended  chan struct{} // closed when the writer has
	err    error         // of closing, valid once ended

	// The rest is the writer's.

	file    *os.File
	size    int64 // of what is good in the file
	records int   // in it
	live    map[leaseKey][]byte
	// suspect is set when the file's end, or its name, may not be what we think:
	// it must be written anew before anything else is acknowledged.
	suspect    bool
	compaction *compaction // that runs; nil if none does
	compacted  chan *compaction
	compactAt  int // the number of records below which compaction is not tried again
}

// pendingChange is a change that waits for the writer.
type pendingChange struct {
	key     leaseKey
	removed bool
	line    []byte
	err     error // why it cannot be written at all
	done    func(error)
}

// OpenJournal opens the journal at path, made if it is missing, and returns the
// leases in it sorted by network and address, expired ones too. An end that
// was not written completely is cut off. A file that is damaged otherwise is
// kept aside and replaced by what is valid in it. Both are logged; Recovery
// tells too. A journal of a newer version is left alone, with a *FormatError.
func OpenJournal(path string, o JournalOptions) (*Journal, []netdef.Lease, error) {
	j := &Journal{
		path: path, opt: o, fault: o.Fault, log: o.Log,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), compacted: make(chan *compaction, 1),
	}
	j.room.L = &j.mu
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	if j.opt.Now == nil {
		j.opt.Now = time.Now
	}
	if j.opt.CompactMin == 0 {
		j.opt.CompactMin = 1000
	}
	if j.opt.sync == nil {
		j.opt.sync = datasync
	}
	if j.opt.UnsafeNoSync {
		j.opt.sync = func(*os.File) error { return nil }
	}
	leases, err := j.open()
	if err != nil {
		if j.file != nil {
			j.file.Close() // nothing was written through it that counts
		}
		return nil, nil, fmt.Errorf("open lease journal: %w", err)
	}
	go j.run()
	return j, leases, nil
}

func datasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}

func (j *Journal) open() ([]netdef.Lease, error) {
	dir := filepath.Dir(j.path)
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	if err := removeTemps(dir, j.log); err != nil {
		return nil, err
	}
	found := scanned{}
	file, err := os.OpenFile(j.path, os.O_RDWR, 0)
	if err == nil {
		j.file = file
		found, err = scan(file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if found.version > journalFormat {
		return nil, &FormatError{Path: j.path, Version: found.version, Known: journalFormat}
	}
	j.live, j.records, j.size = found.live, found.records, found.end
	if j.live == nil {
		j.live = map[leaseKey][]byte{}
	}
	return sortedLeases(found.leases), j.repair(found)
}

// repair makes the file one that can be appended to.
func (j *Journal) repair(found scanned) error {
	j.recovery = Recovery{Cut: found.torn, Lost: found.lost}
	if found.torn > 0 {
		j.log.Warn("cut an unfinished record off the lease journal", "path", j.path, "bytes", found.torn)
	}
	if found.damaged() {
		copied, err := j.keepAside()
		if err != nil {
			return err
		}
		j.recovery.Copy = copied
		j.log.Error("the lease journal was damaged", "path", j.path, "lost", found.lost, "kept", copied)
	}
	switch {
	case found.damaged(), found.version == 0:
		return j.rewrite()
	case found.torn > 0:
		return j.cut()
	}
	return nil
}

// Recovery tells what had to be repaired when the journal was opened.
func (j *Journal) Recovery() Recovery { return j.recovery }

// Append adds a change. Once it is on disk, or cannot be, done is called with
// the error; calls of done come one after the other, in the order of the
// changes, from another goroutine, and must neither block nor Append. An error means
// that the change was not made; later ones may succeed again. While very many
// changes wait, Append blocks: that is how a full disk queue slows down whoever
// fills it.
func (j *Journal) Append(c LeaseChange, done func(error)) {
	p := pendingChange{key: keyOf(c.Lease), removed: c.Removed, done: done}
	if p.line, p.err = encodeChange(c); p.err != nil {
		p.err = fmt.Errorf("append lease of %s: %w", c.Lease.Addr, p.err)
	}
	j.mu.Lock()
	for len(j.queue) >= maxQueue && !j.closed {
		j.room.Wait()
	}
	if j.closed {
		j.mu.Unlock()
		go p.finish(ErrJournalClosed)
		return
	}
	j.queue = append(j.queue, p)
	j.mu.Unlock()
	j.signal()
}

func (j *Journal) signal() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Close writes what waits and closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	j.closed = true
	j.room.Broadcast()
	j.mu.Unlock()
	j.signal()
	<-j.ended
	return j.err
}

func (p pendingChange) finish(err error) {
	if p.done != nil {
		p.done(err)
	}
}

// run is the writer.
func (j *Journal) run() {
	defer close(j.ended)
	for {
		select {
		case c := <-j.compacted:
			j.finishCompaction(c)
			continue
		case <-j.wake:
		}
		batch, closed := j.take()
		j.commit(batch)
		j.compact()
		if closed {
			if j.compaction != nil {
				j.finishCompaction(<-j.compacted)
			}
			j.err = j.file.Close()
			return
		}
	}
}

// take takes all changes that wait. After closed was reported there are no more.
func (j *Journal) take() (batch []pendingChange, closed bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	batch, j.queue = j.queue, nil
	j.room.Broadcast()
	return batch, j.closed
}

// commit writes a batch and tells everyone.
func (j *Journal) commit(batch []pendingChange) {
	if len(batch) == 0 {
		return
	}
	var lines []byte
	count := 0
	for _, p := range batch {
		if p.err == nil {
			lines = append(lines, p.line...)
			count++
		}
	}
	err := j.write(lines)
	if err == nil {
		j.size += int64(len(lines))
		j.records += count
	} else {
		err = fmt.Errorf("write lease journal: %w", err)
	}
	for _, p := range batch {
		switch {
		case p.err != nil:
			p.finish(p.err)
			continue
		case err != nil:
		case p.removed:
			delete(j.live, p.key)
		default:
			j.live[p.key] = p.line
		}
		p.finish(err)
	}
}

// write adds lines at the file's end and syncs them. If that fails nothing of
// them stays: neither a part of a line, nor whole ones that whoever waits is
// now told were not written.
func (j *Journal) write(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	if j.suspect {
		if err := j.rewrite(); err != nil {
			return err
		}
	}
	err := j.fault.around(journalFile, stepWrite, func() error {
		_, err := j.file.WriteAt(lines, j.size)
		return err
	})
	if err != nil {
		j.suspect = j.cut() != nil
		return err
	}
	err = j.fault.around(journalFile, stepSync, func() error { return j.opt.sync(j.file) })
	if err != nil {
		// After a failed sync nobody knows which pages are on disk, and the
		// kernel will not say so again: only a new file can be trusted.
		j.cut()
		j.suspect = true
	}
	return err
}

// cut cuts off what follows the good part of the file, and makes sure that a
// power cut does not bring it back.
func (j *Journal) cut() error {
	err := j.fault.around(journalFile, stepCut, func() error {
		if err := j.file.Truncate(j.size); err != nil {
			return err
		}
		return j.opt.sync(j.file)
	})
	if err != nil {
		j.log.Error("cannot cut the lease journal, it will be written anew", "path", j.path, "error", err)
	}
	return err
}

func sortedLeases(m map[leaseKey]netdef.Lease) []netdef.Lease {
	leases := make([]netdef.Lease, 0, len(m))
	for _, l := range m {
		leases = append(leases, l)
	}
	slices.SortFunc(leases, func(a, b netdef.Lease) int {
		if c := bytes.Compare(a.Network[:], b.Network[:]); c != 0 {
			return c
		}
		return a.Addr.Compare(b.Addr)
	})
	return leases
}
