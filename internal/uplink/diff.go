package uplink

import (
	"fmt"
	"strings"
)

// around is how many lines a Diff shows around what differs.
const around = 3

// Diff is the change as a unified diff of one hunk, for a person to read.
func (e Edit) Diff() string {
	old, new := linesOf(e.Old), linesOf(e.New)
	head := 0
	for head < len(old) && head < len(new) && old[head] == new[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(new)-head && old[len(old)-1-tail] == new[len(new)-1-tail] {
		tail++
	}
	if head == len(old) && head == len(new) {
		return ""
	}
	from := max(head-around, 0)
	oldEnd, newEnd := min(len(old)-tail+around, len(old)), min(len(new)-tail+around, len(new))
	var s strings.Builder
	fmt.Fprintf(&s, "--- %s\n+++ %s\n@@ -%d,%d +%d,%d @@\n", nameOf(e.Old, e.Path), nameOf(e.New, e.Path),
		min(from+1, len(old)), oldEnd-from, min(from+1, len(new)), newEnd-from)
	print := func(mark string, lines []string) {
		for _, l := range lines {
			s.WriteString(mark + l + "\n")
		}
	}
	print(" ", old[from:head])
	print("-", old[head:len(old)-tail])
	print("+", new[head:len(new)-tail])
	print(" ", old[len(old)-tail:oldEnd])
	return s.String()
}

func linesOf(text *string) []string {
	if text == nil || *text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(*text, "\n"), "\n")
}

func nameOf(text *string, path string) string {
	if text == nil {
		return "/dev/null"
	}
	return path
}
