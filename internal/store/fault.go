package store

// faults is called around every write, so that tests can stop the program there.
type faults func(point string)

// The kinds of files that are written, as fault points name them.
const (
	definitionFile = "definition"
	startedFile    = "first start mark"
	autostartLink  = "autostart link"
	statusFile     = "status"
	hostFile       = "host state"
	undoFile       = "undo record"
	journalFile    = "lease journal"
)

// The steps of a write, as fault points name them.
const (
	stepWrite   = "write"
	stepSync    = "sync"
	stepRename  = "rename"
	stepDirSync = "directory sync"
	stepRemove  = "remove"
	stepCut     = "cut"            // of an unreadable end of the journal
	stepCompact = "compact"        // writing the journal anew
	stepTail    = "compact finish" // adding what came while compacting, and syncing it
)

// faultTable lists which steps happen to which kind of file.
var faultTable = []struct {
	file  string
	steps []string
}{
	{definitionFile, []string{stepWrite, stepSync, stepRename, stepDirSync, stepRemove}},
	{startedFile, []string{stepWrite, stepSync, stepRename, stepDirSync}},
	{autostartLink, []string{stepWrite, stepRename, stepDirSync, stepRemove}},
	{statusFile, []string{stepWrite, stepRename, stepRemove}},
	{hostFile, []string{stepWrite, stepRename}},
	{undoFile, []string{stepWrite, stepSync, stepRename, stepDirSync, stepRemove}},
	{journalFile, []string{stepWrite, stepSync, stepCut, stepCompact, stepTail, stepRename, stepDirSync}},
}

// FaultPoints lists every name that Options.Fault and JournalOptions.Fault can
// be called with. They are stable.
func FaultPoints() []string {
	var points []string
	for _, row := range faultTable {
		for _, step := range row.steps {
			points = append(points, "before store "+row.file+" "+step, "after store "+row.file+" "+step)
		}
	}
	return points
}

// around does one step of a write between its two fault points.
func (f faults) around(file, step string, do func() error) error {
	if f == nil {
		return do()
	}
	f("before store " + file + " " + step)
	err := do()
	f("after store " + file + " " + step)
	return err
}
