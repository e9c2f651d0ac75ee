package tftp

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// open opens a file below the root. Neither ".." nor a symbolic link leads out
// of it. What others may not read on the host is not handed out, since the
// server itself may read everything.
func open(root, name string) (*os.File, fs.FileInfo, error) {
	folder, err := os.OpenRoot(root)
	if err != nil {
		return nil, nil, errNotFound
	}
	defer folder.Close()
	// A pipe that nobody writes to must not hold us up.
	f, err := folder.OpenFile(below(root, name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, errNotFound
	case err != nil:
		return nil, nil, errForbidden
	}
	const others = 0o004
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&others == 0 {
		f.Close()
		return nil, nil, errForbidden
	}
	return f, info, nil
}

// below is the name of a file from the root on. Guests may write it with a
// slash before it, with the root itself before it, or as in DOS.
func below(root, name string) string {
	name = strings.ReplaceAll(name, `\`, "/")
	if rest, ok := strings.CutPrefix(name, strings.TrimRight(root, "/")+"/"); ok {
		name = rest
	}
	name = strings.TrimLeft(path.Clean(name), "/")
	if name == "" {
		return "."
	}
	return name
}

// source is a file as a row of blocks.
type source struct {
	file     *os.File
	reader   *bufio.Reader
	netascii bool
	pending  []byte // translated, but not handed out yet
}

func newSource(f *os.File, netascii bool) *source {
	const ahead = 32 << 10
	return &source{file: f, reader: bufio.NewReaderSize(f, ahead), netascii: netascii}
}

// next appends a block of the given size to p; a shorter one is the last.
func (s *source) next(p []byte, size int) ([]byte, error) {
	if !s.netascii {
		start := len(p)
		p = p[:start+size]
		n, err := io.ReadFull(s.reader, p[start:])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
		return p[:start+n], err
	}
	raw := make([]byte, size)
	for len(s.pending) < size {
		n, err := s.reader.Read(raw)
		s.pending = append(s.pending, toNetASCII(raw[:n])...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return p, err
		}
	}
	n := min(size, len(s.pending))
	p = append(p, s.pending[:n]...)
	s.pending = s.pending[n:]
	return p, nil
}
