package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/netdef"
)

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	o.BootID = "boot-1"
	s := openStore(t, o)
	want := []Status{
		{Name: "a", UUID: netdef.UUID{1}, Live: "<network>\n&amp;</network>", Next: "<network/>", Persistent: true, DNSPort: 5353},
		{Name: "b", UUID: netdef.UUID{2}, Live: "<network/>"},
	}
	for i := range want {
		check(t, s.PutStatus(Status{Name: want[i].Name}))
		check(t, s.PutStatus(want[i]))
		want[i].Format, want[i].BootID = 1, "boot-1"
	}
	check(t, s.DeleteStatus("nobody"))
	for _, bad := range []struct{ name, content string }{
		{"newer", `{"format":2,"name":{"of":"another type"}}`},
		{"torn", `{"format":1,"na`},
		{"unversioned", `{"name":"unversioned"}`},
		{"misnamed", `{"format":1,"name":"a","bootId":"boot-1"}`},
	} {
		writeFile(t, filepath.Join(dir, "run/networks", bad.name+".json"), []byte(bad.content))
	}
	compare := func(s *Store) {
		t.Helper()
		got, bad := s.Statuses()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("statuses (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"misnamed", "newer", "torn", "unversioned"}, badNames(bad)); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
		if !isFormatError(bad[1], filepath.Join(dir, "run/networks/newer.json"), 2) {
			t.Errorf("newer status: %v", bad[1])
		}
	}
	compare(s)
	check(t, s.Close())
	s = openStore(t, o)
	compare(s)
	check(t, s.DeleteStatus("a"))
	want = want[1:]
	compare(s)
}

// TestReboot: where the run folder is no tmpfs, what was in it is still over.
func TestReboot(t *testing.T) {
	o := options(t.TempDir())
	o.BootID = "boot-1"
	s := openStore(t, o)
	check(t, s.PutStatus(Status{Name: "transient"}))
	check(t, s.MarkAutostarted())
	check(t, s.Close())

	s = openStore(t, o)
	if statuses, _ := s.Statuses(); len(statuses) != 1 || !s.AutostartedThisBoot() {
		t.Errorf("after a restart: statuses %v, autostarted %t", statuses, s.AutostartedThisBoot())
	}
	check(t, s.Close())

	var log logBuffer
	o.BootID, o.Log = "boot-2", log.logger()
	s = openStore(t, o)
	if statuses, bad := s.Statuses(); len(statuses)+len(bad) != 0 || s.AutostartedThisBoot() {
		t.Errorf("after a reboot: statuses %v, errors %v, autostarted %t", statuses, bad, s.AutostartedThisBoot())
	}
	if !strings.Contains(log.String(), "network=transient") {
		t.Errorf("log is %q", &log)
	}
}

func TestBootIDOfTheKernel(t *testing.T) {
	o := options(t.TempDir())
	s := openStore(t, o)
	check(t, s.MarkAutostarted())
	check(t, s.Close())
	if s = openStore(t, o); !s.AutostartedThisBoot() || s.Host().BootID == "" {
		t.Errorf("state of the host is %+v", s.Host())
	}
}

func TestHostState(t *testing.T) {
	o := options(t.TempDir())
	s := openStore(t, o)
	s.Host().Sysctls["net/ipv4/ip_forward"] = SysctlRecord{"only", "a copy"}
	record := SysctlRecord{Old: "0", Set: "1"}
	check(t, s.UpdateHost(func(h *HostState) { h.Sysctls["net/ipv4/ip_forward"] = record }))
	check(t, s.MarkAutostarted())
	check(t, s.Close())
	s = openStore(t, o)
	if got := s.Host(); got.Sysctls["net/ipv4/ip_forward"] != record || !got.Autostarted {
		t.Errorf("state of the host is %+v", got)
	}
	check(t, s.Close())

	path := filepath.Join(o.RunDir, "host.json")
	writeFile(t, path, []byte(`{"format":2,"sysctls":"something else"}`))
	if _, err := Open(o); !isFormatError(err, path, 2) {
		t.Errorf("open with a newer host.json: %v", err)
	}
	writeFile(t, path, nil)
	s = openStore(t, o)
	if got := s.Host(); len(got.Sysctls) != 0 || got.Autostarted {
		t.Errorf("from an empty file came %+v", got)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty file is still there: %v", err)
	}
}

// FuzzStatus: whatever is in a status file, reading it does no harm, and what
// was read is what a status can say.
func FuzzStatus(f *testing.F) {
	for _, seed := range []string{
		`{"format":1,"bootId":"x","uuid":"01020300-0000-0000-0000-000000000000","name":"a","live":"<network/>","persistent":true,"dnsPort":5353}`,
		`{"format":2,"name":1}`, `{"format":1,"name":"../a"}`, `{"format":1e3}`, `{"format":-1,"name":"a"}`, `{}`, `[]`, `null`, ``, `{"format":1,"uuid":"zz"}`,
		`{"format":1,"name":"a","dnsPort":65536}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := decodeStatus("status", b)
		if err != nil {
			return
		}
		if st.Format != statusFormat || CheckName(st.Name) != nil {
			t.Fatalf("accepted %+v", st)
		}
		o := options(memoryDir(t))
		o.BootID = "boot"
		s := openStore(t, o)
		check(t, s.PutStatus(st))
		st.BootID = "boot"
		got, bad := s.Statuses()
		if len(bad) > 0 || len(got) != 1 || !cmp.Equal(got[0], st) {
			t.Fatalf("%+v came back as %+v, %v", st, got, bad)
		}
	})
}
