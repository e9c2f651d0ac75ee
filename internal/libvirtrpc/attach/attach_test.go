package attach

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"viaduct/internal/engine"
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/netdef"
)

// libvirtdOnPaper answers as a libvirtd without networks does, writes down what it
// is told to do, and refuses to define networks called bad.
func libvirtdOnPaper(t *testing.T, socket string, told *[]string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	about := func(what string) dispatch.Procedure {
		return dispatch.Procedure{Run: func(c *dispatch.Call) error {
			name := c.In.String()
			c.In.UUID()
			if what == "autostart" {
				c.In.Int32()
			}
			*told = append(*told, what+" "+name)
			return c.In.End()
		}}
	}
	procedures := map[uint32]dispatch.Procedure{
		283: {Run: func(c *dispatch.Call) error {
			c.In.Int32()
			c.In.Uint32()
			c.Out.Uint32(0)
			c.Out.Uint32(0)
			return c.In.End()
		}},
		41: {Run: func(c *dispatch.Call) error {
			def, err := netdef.Parse([]byte(c.In.String()))
			if err != nil {
				return err
			}
			if def.Name == "bad" {
				return netdef.Errorf(netdef.ErrConfigUnsupported, "not here")
			}
			*told = append(*told, "define "+def.Name)
			c.Out.String(def.Name)
			c.Out.UUID(def.UUID)
			return nil
		}},
		39: about("start"), 48: about("autostart"),
	}
	s := &dispatch.Server{Driver: dispatch.Driver{Name: "network", Procedures: procedures}, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// listed is paper that lists its networks.
type listed struct {
	paper
	infos []engine.Info
}

func (l listed) Networks() []engine.Info { return l.infos }

// A network that libvirtd does not take is named with its reason, and keeps no
// other one back. Only then is libvirtd to be followed.
func TestAttach(t *testing.T) {
	dir := t.TempDir()
	var told []string
	l := &Libvirtd{Socket: filepath.Join(dir, "sock"), Mark: filepath.Join(dir, "mark"), Log: slog.New(slog.DiscardHandler)}
	ours := listed{paper: paper{}}
	for i, name := range []string{"bad", "good"} {
		info := engine.Info{Name: name, UUID: netdef.UUID{15: byte(i + 1)}, Active: true, Autostart: true}
		ours.infos = append(ours.infos, info)
		ours.paper[info.UUID] = "<network><name>" + name + "</name><uuid>" + info.UUID.String() + "</uuid><bridge name='br" + name + "'/></network>"
	}
	if _, err := l.Attach(t.Context(), ours, false); err == nil || !strings.Contains(err.Error(), "cannot reach libvirtd") {
		t.Errorf("without libvirtd: %v", err)
	}
	if _, err := os.Stat(l.Mark); err == nil {
		t.Error("what failed is to be followed")
	}

	libvirtdOnPaper(t, l.Socket, &told)
	steps, err := l.Attach(t.Context(), ours, true)
	if err != nil || len(steps) != 6 || len(told) != 0 {
		t.Errorf("planned %+v, %v; told %v", steps, err, told)
	}
	steps, err = l.Attach(t.Context(), ours, false)
	if err != nil || len(steps) != 4 || steps[0].Action != Leave || steps[0].Reason != "libvirtd refuses it: unsupported configuration: not here" {
		t.Errorf("did %+v, %v", steps, err)
	}
	if got := strings.Join(told, ", "); got != "define good, start good, autostart good" {
		t.Errorf("libvirtd was told: %s", got)
	}
	if _, err := os.Stat(l.Mark); err != nil {
		t.Error(err)
	}
	if _, err := l.Remove(t.Context(), false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(l.Mark); err == nil {
		t.Error("it is to be followed on")
	}
}
