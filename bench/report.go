//go:build linux

package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report gathers samples and shows them.
type report struct {
	tools   []*tool
	machine string
	scale   float64
	runs    int
	corpora []string
	sizes   map[string]total
	samples []sample
}

// say tells the person who waits.
func (r *report) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

func (r *report) begin(corpus string, size total) {
	if r.sizes == nil {
		r.sizes = map[string]total{}
	}
	r.corpora = append(r.corpora, corpus)
	r.sizes[corpus] = size
}

func (r *report) add(s sample) { r.samples = append(r.samples, s) }

// figure is a row of the table: something measured, the smaller the better.
type figure struct {
	name  string
	of    func(sample) float64
	shown func(phase string) bool
}

func always(string) bool { return true }

var figures = []figure{
	{"CPU s", func(s sample) float64 { return s.cpu().Seconds() }, always},
	{"wall s", func(s sample) float64 { return s.wall.Seconds() }, always},
	{"memory MiB", func(s sample) float64 { return float64(s.rss) / (1 << 20) }, always},
	{"stored MiB", func(s sample) float64 { return float64(s.added) / (1 << 20) }, func(p string) bool { return p == first || p == unchanged || p == changed }},
}

// median of one figure of one tool.
func (r *report) median(f figure, corpus, phase, tool string) float64 {
	var all []float64
	for _, s := range r.samples {
		if s.corpus == corpus && s.phase == phase && s.tool == tool {
			all = append(all, f.of(s))
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// rows returns the table of a corpus, with its headings.
func (r *report) rows(corpus string) [][]string {
	head := []string{"phase", "measure"}
	for _, t := range r.tools {
		head = append(head, t.name)
	}
	for _, t := range r.tools[1:] {
		head = append(head, "kassett/"+t.name)
	}
	rows := [][]string{append(head, "kassett/best")}
	for _, phase := range phases {
		for _, f := range figures {
			if !f.shown(phase) {
				continue
			}
			row := []string{phase, f.name}
			ours, best := 0.0, 0.0
			var ratios []string
			for i, t := range r.tools {
				v := r.median(f, corpus, phase, t.name)
				row = append(row, short(v))
				if i == 0 {
					ours = v
					continue
				}
				ratios = append(ratios, ratio(ours, v))
				if i == 1 || v < best {
					best = v
				}
			}
			rows = append(rows, append(append(row, ratios...), ratio(ours, best)))
		}
	}
	return rows
}

func short(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// ratio is how much of the other's figure ours is. Figures too small to divide
// give none.
func ratio(ours, other float64) string {
	if other < 0.005 {
		return "–"
	}
	return fmt.Sprintf("%.2f", ours/other)
}

func (r *report) title(corpus string) string {
	n := r.sizes[corpus]
	return fmt.Sprintf("%s: %d files, %d MiB; %s", corpus, n.files, n.bytes>>20, corpora[corpus].about)
}

// table prints the medians of a corpus for a terminal.
func (r *report) table(w io.Writer, corpus string) {
	fmt.Fprintf(w, "\n%s (medians of %d runs)\n", r.title(corpus), r.runs)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range r.rows(corpus) {
		fmt.Fprintln(t, strings.Join(row, "\t")+"\t")
	}
	_ = t.Flush()
}

// write writes samples.csv and table.md into dir.
func (r *report) write(dir string) error {
	md := filepath.Join(dir, "table.md")
	if err := os.WriteFile(md, r.markdown(), 0o644); err != nil {
		return err
	}
	path := filepath.Join(dir, "samples.csv")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := csv.NewWriter(f)
	rows := [][]string{{
		"corpus", "phase", "run", "tool", "version", "wall_s", "user_s", "sys_s", "memory_bytes",
		"repository_bytes", "added_bytes", "other_cpu_s", "restored_to",
	}}
	versions := map[string]string{}
	for _, t := range r.tools {
		versions[t.name] = t.version
	}
	for _, s := range r.samples {
		rows = append(rows, []string{
			s.corpus, s.phase, fmt.Sprint(s.run), s.tool, versions[s.tool], seconds(s.wall), seconds(s.user), seconds(s.sys),
			fmt.Sprint(s.rss), fmt.Sprint(s.repo), fmt.Sprint(s.added), seconds(s.other), s.place,
		})
	}
	err = w.WriteAll(rows)
	r.say("wrote %s and %s", md, path)
	return errors.Join(err, f.Close())
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

func (r *report) markdown() []byte {
	b := fmt.Appendf(nil, "# Kassett beside its peers\n\n%s. Scale %g, medians of %d runs, page cache warm. Smaller is better; a ratio below 1 means that Kassett needs less.\n\n",
		r.machine, r.scale, r.runs)
	for _, t := range r.tools {
		b = fmt.Appendf(b, "- %s: %s\n", t.name, t.version)
	}
	for _, s := range r.samples {
		if s.phase == restore {
			b = fmt.Appendf(b, "- restores go to %s\n", s.place)
			break
		}
	}
	for _, corpus := range r.corpora {
		b = fmt.Appendf(b, "\n## %s\n\n", r.title(corpus))
		for i, row := range r.rows(corpus) {
			b = fmt.Appendf(b, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				b = append(b, "|"+strings.Repeat(" --- |", 2)+strings.Repeat(" ---: |", len(row)-2)+"\n"...)
			}
		}
	}
	return b
}
