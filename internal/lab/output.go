package lab

import (
	"bytes"
	"io"
	"regexp"
	"sync"
)

// maxOutput bounds what is kept of a program's output: of more, the beginning
// is forgotten.
const maxOutput = 4 << 20

// output collects what a program says, and wakes those who wait for a line.
type output struct {
	mu             sync.Mutex
	stdout, stderr buffer
	merged         buffer
	writers        []*streamWriter
	read           int           // how far find has looked, an offset in merged
	more           chan struct{} // closed and replaced when something comes; nil after the end
}

// buffer is the newest part of a stream.
type buffer struct{ data []byte }

// add appends and returns how many old bytes it dropped.
func (b *buffer) add(p []byte) int {
	b.data = append(b.data, p...)
	over := len(b.data) - maxOutput
	if over <= 0 {
		return 0
	}
	b.data = append(b.data[:0], b.data[over:]...)
	return over
}

func newOutput() *output { return &output{more: make(chan struct{})} }

// stream returns the writer that feeds one of the two streams.
func (o *output) stream(b *buffer) io.Writer {
	w := &streamWriter{o: o, b: b}
	o.writers = append(o.writers, w)
	return w
}

// streamWriter holds an unfinished line back, so that lines of two streams
// do not mix.
type streamWriter struct {
	o       *output
	b       *buffer
	partial []byte
}

func (w *streamWriter) Write(p []byte) (int, error) {
	o := w.o
	o.mu.Lock()
	defer o.mu.Unlock()
	w.b.add(p)
	w.partial = append(w.partial, p...)
	if len(w.partial) >= maxOutput {
		w.partial = append(w.partial, '\n')
	}
	if end := bytes.LastIndexByte(w.partial, '\n') + 1; end > 0 {
		w.flush(end)
		close(o.more)
		o.more = make(chan struct{})
	}
	return len(p), nil
}

// flush moves the first end bytes, whole lines, to the merged output.
func (w *streamWriter) flush(end int) {
	dropped := w.o.merged.add(w.partial[:end])
	w.o.read = max(0, w.o.read-dropped)
	w.partial = append(w.partial[:0], w.partial[end:]...)
}

// close notes that nothing more comes, after all writers are done.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.writers {
		if len(w.partial) > 0 {
			w.partial = append(w.partial, '\n')
			w.flush(len(w.partial))
		}
	}
	close(o.more)
	o.more = nil
}

// find looks for the next line that matches. If there is none yet, more closes
// when there may be one; a nil more says that there will be none.
func (o *output) find(re *regexp.Regexp) (line string, found bool, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for at := o.read; at < len(o.merged.data); {
		end := bytes.IndexByte(o.merged.data[at:], '\n')
		text := o.merged.data[at : at+end]
		at += end + 1
		if re.Match(text) {
			o.read = at
			return string(text), true, nil
		}
	}
	return "", false, o.more
}

func (o *output) both() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.merged.data)
}

func (o *output) streams() (stdout, stderr string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.stdout.data), string(o.stderr.data)
}
