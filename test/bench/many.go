package main

import (
	"fmt"
	"time"
)

// fewNetworks is where the growth per further network is counted from.
const fewNetworks = 100

// edge is how many starts at either end of many are compared.
const edge = 50

// manyNetworks starts many networks by single calls, and looks at what the last
// ones cost beside the first: time, and memory.
func (b *bench) manyNetworks() {
	us := b.startOurs("many", b.scale.many, 0)
	few := min(fewNetworks, b.scale.many/2)
	took := us.start(numbers(0, few))
	before := us.memory()
	took = append(took, us.start(numbers(few, b.scale.many-few))...)
	after := us.memory()
	n := min(edge, b.scale.many/4)
	first, last := median(took[:n]), median(took[len(took)-n:])
	perNetwork := (after - before) / float64(b.scale.many-few)
	b.report.add(
		atMost(fmt.Sprintf("start by single calls, median of the last %d of %d", n, b.scale.many), millis(last),
			fmt.Sprintf("of the first %d %s", n, millis(first)), quotient(last, first), 3),
		row{fmt.Sprintf("memory per network from %d to %d", few, b.scale.many), fmt.Sprintf("%.1f KiB", perNetwork),
			fmt.Sprintf("%s at %d, %s at %d", mebibytes(before), few, mebibytes(after), b.scale.many), "", "at most 60 KiB", perNetwork <= 60},
	)
}

// boot starts daemons that have few and many networks to start by themselves.
func (b *bench) boot() {
	few, many := b.scale.fewStarted, b.scale.many
	took := map[int][]time.Duration{}
	for i := range b.scale.boots {
		counts := []int{0, few, many}
		if i >= b.scale.bigBoots {
			counts = counts[:2]
		}
		for _, count := range counts {
			took[count] = append(took[count], b.bootOnce(fmt.Sprintf("boot%d-%d", i, count), count))
		}
	}
	idle := median(took[0])
	each := func(count int) time.Duration { return (median(took[count]) - idle) / time.Duration(count) }
	b.report.add(atMost(fmt.Sprintf("daemon start with %d autostarted networks, per network", many), millis(each(many)),
		fmt.Sprintf("with %d %s", few, millis(each(few))), quotient(each(many), each(few)), 1.5))
}

// bootOnce is how long a daemon takes until it is ready with its networks up.
func (b *bench) bootOnce(name string, count int) time.Duration {
	us := b.newOurs(name, count, count)
	began := time.Now()
	b.must(us.daemon.Start())
	took := time.Since(began)
	us.daemon.Kill9() // it has done its work
	b.progress("daemon start with %d networks: %s", count, millis(took))
	return took
}
