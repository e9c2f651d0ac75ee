package kernel

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kept returns a folder that fill fills once and that is then kept in the
// user's cache. What was kept when the recipe was another one does not count.
func kept(name, recipe string, fill func(dir string) error) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "cache")
	}
	cache = filepath.Join(cache, "viaduct-test", fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(recipe))))
	tree := filepath.Join(cache, name)
	if _, err := os.Stat(tree); err == nil {
		return tree, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, ".fetch")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err = fill(tmp); err != nil {
		// The lists of packages may be none, or too old.
		if _, update := Output(tmp, "apt-get", "-qq", "update"); update == nil {
			err = fill(tmp)
		}
	}
	if err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(tmp, "tree"), tree); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return tree, nil
}

// Packages returns a folder into which the packages of the distribution are
// unpacked, without those that they need. It is fetched once and then kept in
// the user's cache.
func Packages(names ...string) (string, error) {
	tree, err := kept(names[0], strings.Join(names, " "), func(dir string) error {
		if _, err := Output(dir, "apt-get", append([]string{"download", "-qq", "-o", "APT::Sandbox::User=root"}, names...)...); err != nil {
			return err
		}
		_, err := Output(dir, "sh", "-c", `mkdir -p tree && for p in *.deb; do dpkg-deb -x "$p" tree || exit; done`)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("fetch packages: %w", err)
	}
	return tree, nil
}

// Output runs a program in a folder and returns what it printed.
func Output(dir, program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, errs.String())
	}
	return string(out), nil
}
