package store

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// compactFactor is how many replaced records there may be for each live one.
const compactFactor = 2

// keptCopies is how many copies of damaged journals are kept, the newest.
const keptCopies = 3

// compaction is the journal being written anew: the lines that live at one
// moment, and then what was added to the old file since. The old file stays
// in place and in use until the new one holds everything and is synced.
type compaction struct {
	from    *os.File // the old file, nil if there was none
	at      int64    // its size at that moment
	records int      // and the number of records
	lines   [][]byte
	file    *os.File
	err     error
}

// compact starts a compaction if one is due. The long part of it runs beside the writer.
func (j *Journal) compact() {
	dead := j.records - len(j.live)
	if j.compaction != nil || dead < j.opt.CompactMin || dead <= compactFactor*len(j.live) || j.records < j.compactAt {
		return
	}
	c := j.snapshot()
	j.compaction = c
	go func() {
		j.writeAnew(c)
		j.compacted <- c
	}()
}

// rewrite writes the journal anew here and now.
func (j *Journal) rewrite() error {
	c := j.snapshot()
	j.writeAnew(c)
	return j.replace(c)
}

func (j *Journal) snapshot() *compaction {
	c := &compaction{from: j.file, at: j.size, records: j.records, lines: make([][]byte, 0, len(j.live))}
	for _, line := range j.live {
		c.lines = append(c.lines, line)
	}
	return c
}

// writeAnew writes the lines of the snapshot to a temporary file and syncs it.
func (j *Journal) writeAnew(c *compaction) {
	if c.file, c.err = createTemp(filepath.Dir(j.path)); c.err != nil {
		return
	}
	c.err = j.fault.around(journalFile, stepCompact, func() error {
		w := bufio.NewWriter(c.file)
		w.Write(encodeHeader()) // a bufio.Writer keeps its first error for Flush
		for _, line := range c.lines {
			w.Write(line)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		return j.opt.sync(c.file)
	})
}

// finishCompaction takes the result of one that compact started. Without it
// the journal goes on as it was.
func (j *Journal) finishCompaction(c *compaction) {
	j.compaction = nil
	err := j.replace(c)
	if err != nil {
		j.compactAt = j.records + j.opt.CompactMin
		j.log.Warn("cannot compact the lease journal", "path", j.path, "error", err)
	}
}

// errOvertaken says that the file was written anew while a compaction ran.
var errOvertaken = errors.New("the journal was written anew meanwhile")

// replace completes the new file and puts it in the old one's place. Nothing is
// acknowledged between the rename and the sync of the folder, so whichever of
// the two files a power cut leaves has every acknowledged change.
func (j *Journal) replace(c *compaction) error {
	err := c.err
	if err == nil && c.from != j.file {
		err = errOvertaken
	}
	var size int64
	if err == nil {
		err = j.fault.around(journalFile, stepTail, func() (err error) {
			size, err = c.addTail(j.size, j.opt.sync)
			return err
		})
	}
	if err == nil {
		err = j.fault.around(journalFile, stepRename, func() error { return os.Rename(c.file.Name(), j.path) })
	}
	if err != nil {
		if c.file != nil {
			discard(c.file)
		}
		return err
	}
	if j.file != nil {
		j.file.Close() // synced and no longer needed
	}
	j.file, j.size = c.file, size
	j.records = len(c.lines) + j.records - c.records
	err = j.fault.syncDir(journalFile, filepath.Dir(j.path))
	j.suspect = err != nil
	return err
}

// addTail copies what was added to the old file since the snapshot, and
// returns the size of the whole.
func (c *compaction) addTail(oldSize int64, sync func(*os.File) error) (int64, error) {
	if c.from != nil && oldSize > c.at {
		if _, err := io.Copy(c.file, io.NewSectionReader(c.from, c.at, oldSize-c.at)); err != nil {
			return 0, err
		}
		if err := sync(c.file); err != nil {
			return 0, err
		}
	}
	return c.file.Seek(0, io.SeekEnd)
}

// keepAside gives the damaged journal a second name, which it keeps when the
// first goes to its successor, and forgets the oldest such files.
func (j *Journal) keepAside() (string, error) {
	stem := j.path + ".damaged-"
	name := stem + j.opt.Now().UTC().Format("20060102T150405.000000000")
	if err := os.Link(j.path, name); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("keep damaged journal: %w", err)
	}
	entries, err := os.ReadDir(filepath.Dir(j.path)) // sorted, so by time
	if err != nil {
		return "", fmt.Errorf("keep damaged journal: %w", err)
	}
	var copies []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(stem)) {
			copies = append(copies, filepath.Join(filepath.Dir(j.path), e.Name()))
		}
	}
	for ; len(copies) > keptCopies; copies = copies[1:] {
		if err := os.Remove(copies[0]); err != nil {
			return "", fmt.Errorf("remove old damaged journal: %w", err)
		}
	}
	return name, nil
}
