package lab_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/lab"
)

func doomedContext() context.Context { return context.Background() }

// playDaemon is ready at once and ends by SIGTERM, as viaduct's daemon would.
// Asked by an environment variable, it fails.
func playDaemon() {
	if os.Getenv("LAB_TEST_FAIL") != "" {
		fmt.Println("cannot go on")
		os.Exit(7)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("arguments", os.Args[2:])
	conn.Write([]byte("STATUS=up\nREADY=1"))
	<-term
	fmt.Println("asked to end")
}

func TestDaemonIsStartedReadyAndRestarted(t *testing.T) {
	h := lab.New(t).NewHost(lab.HostOptions{})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := h.StartDaemon(self, "--extra")
	out, err := d.Process().WaitLine(within(t, 5*time.Second), "^arguments")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--config-dir /var/lib/viaduct/config", "--state-dir /var/lib/viaduct/state", "--run-dir /run/viaduct", "--socket /run/viaduct/viaduct.sock", "--extra"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in %q", want, out)
		}
	}
	if err := d.Start(); err == nil {
		t.Error("it was started twice")
	}
	if err := d.Restart(); err != nil {
		t.Fatal(err)
	}
	d.Kill9()
	if r, err := d.Process().Wait(within(t, 5*time.Second)); err != nil || r.Code != -1 {
		t.Errorf("killed, it ended with %+v, %v", r, err)
	}
	d.SetEnv("LAB_TEST_FAIL=1")
	if err := d.Start(); err == nil || !strings.Contains(err.Error(), "cannot go on") {
		t.Errorf("a daemon that fails gives %v", err)
	}
}
