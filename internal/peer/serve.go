package peer

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// Serve has connections to l answered, up to most at once, until ctx is done.
// What is being answered then is finished. It closes l and each connection.
func Serve(ctx context.Context, l net.Listener, most int, answer func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	slots := make(chan struct{}, most)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		serving.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			answer(c)
		})
	}
}
