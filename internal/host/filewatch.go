package host

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// FileWatch tells when a file is written to, or something happens in a folder.
type FileWatch struct {
	changed chan struct{}
	close   func() error
}

// WatchFile watches a file that is written in place.
func WatchFile(path string) (*FileWatch, error) { return watch(path, unix.IN_MODIFY) }

// WatchDir watches the files of a folder: those that go, and those that somebody has
// written, once they are whole.
func WatchDir(path string) (*FileWatch, error) {
	return watch(path, unix.IN_CLOSE_WRITE|unix.IN_DELETE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_ONLYDIR)
}

func watch(path string, events uint32) (*FileWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, events); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", path, err), f.Close())
	}
	w := &FileWatch{changed: make(chan struct{}, 1)}
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 4096)
		for {
			if _, err := f.Read(buf); err != nil {
				return
			}
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	})
	w.close = sync.OnceValue(func() error {
		err := f.Close()
		reading.Wait()
		return err
	})
	return w, nil
}

// Changed delivers after something has happened. What happens while nobody
// receives is one delivery.
func (w *FileWatch) Changed() <-chan struct{} { return w.changed }

// Close ends the watch.
func (w *FileWatch) Close() error { return w.close() }
