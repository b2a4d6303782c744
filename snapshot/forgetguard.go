package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/repo/record"
)

// TagRepaired marks a snapshot that lost something to a repair. It is restic's.
const TagRepaired = "repaired"

// Guard knows what must not be forgotten: what a floor or a hold keeps, and of
// each source that is not signed off one good snapshot. It is for one look at a
// repository that nobody else changes.
type Guard struct {
	records []record.Record
	sources []Group
	now     time.Time
	byID    map[kassett.ID]*Snapshot // all of the repository, with their receive times
}

// bySource groups the snapshots of one source.
var bySource = GroupBy{Host: true, Paths: true}

// LoadGuard reads the records that stand and all snapshots. A record or a
// snapshot that cannot be read is an error: it might keep something.
func LoadGuard(ctx context.Context, r *repo.Repository, now time.Time) (*Guard, error) {
	records, err := r.Records().Standing(ctx)
	if err != nil {
		return nil, fmt.Errorf("read floors and holds: %w", err)
	}
	list, err := List(ctx, r, Filter{})
	if err != nil {
		return nil, err
	}
	return NewGuard(records, list, now), nil
}

// NewGuard returns the guard for a repository with these records, as
// [repo.Repository.Records] returns them, and snapshots.
func NewGuard(records []record.Record, all []*Snapshot, now time.Time) *Guard {
	g := &Guard{records: records, sources: Groups(all, bySource), now: now, byID: make(map[kassett.ID]*Snapshot, len(all))}
	for _, s := range all {
		g.byID[s.ID] = s
	}
	return g
}

// good reports whether a snapshot holds all of its source, as far as its tags
// tell.
func good(s *Snapshot) bool { return s.Complete() && !slices.Contains(s.Tags, TagRepaired) }

// about reports whether a record's subject is the snapshot.
func about(sub *record.Subject, s *Snapshot) bool {
	if sub.All {
		return true
	}
	if !sub.Snapshot.IsZero() {
		return sub.Snapshot == s.ID || s.Original != nil && sub.Snapshot == *s.Original
	}
	if sub.Host == "" && len(sub.Paths) == 0 && len(sub.Tags) == 0 {
		return false
	}
	if sub.Host != "" && sub.Host != s.Hostname {
		return false
	}
	if len(sub.Paths) > 0 && !slices.Equal(set(sub.Paths), set(s.Paths)) {
		return false
	}
	return !slices.ContainsFunc(sub.Tags, func(t string) bool { return !slices.Contains(s.Tags, t) })
}

func set(l []string) []string { return slices.Compact(slices.Sorted(slices.Values(l))) }

// madeAt returns when a snapshot was made, at the earliest: a backup may be
// dated back, but what it holds is no older than its end. When the storage
// received it is worth more than what its maker says.
func madeAt(s *Snapshot) time.Time {
	if !s.Received.IsZero() {
		return s.Received
	}
	if s.Summary != nil && s.Summary.BackupEnd.After(s.Time) {
		return s.Summary.BackupEnd
	}
	return s.Time
}

// keeps says why a record keeps a snapshot, or "".
func (g *Guard) keeps(rec *record.Record, s *Snapshot) string {
	if !about(&rec.Subject, s) {
		return ""
	}
	switch rec.Kind {
	case record.Hold:
		if rec.Until.IsZero() {
			return "a hold keeps it"
		}
		if g.now.Before(rec.Until) {
			return "a hold keeps it until " + day(rec.Until)
		}
	case record.Floor:
		until := rec.Until
		if rec.Keep != (kassett.Age{}) {
			if t := rec.Keep.After(madeAt(s)); t.After(until) {
				until = t
			}
		}
		if g.now.Before(until) {
			return "a floor keeps it until " + day(until)
		}
	}
	return ""
}

func day(t time.Time) string { return t.Format(time.DateOnly) }

// Removals returns why snapshots must not be removed together, by their IDs: as
// [kassett.Held] errors that say what would lift them. A removal must leave a
// good snapshot of each source, or any if none is good; if it would not, the
// youngest is the one that stays.
func (g *Guard) Removals(list []*Snapshot) map[kassett.ID]error {
	refused := map[kassett.ID]error{}
	going := map[kassett.ID]bool{}
	for _, s := range list {
		if err := g.held(g.known(s)); err != nil {
			refused[s.ID] = err
		} else {
			going[s.ID] = true
		}
	}
	for _, source := range g.sources {
		if s := g.last(source.Snapshots, going); s != nil {
			refused[s.ID] = &kassett.Error{
				Op: "remove snapshot", What: s.ID.Short(), Kind: kassett.Held,
				Err:  fmt.Errorf("it is the last good snapshot of its source, %s", source.Key),
				Hint: "what would let it go: a younger complete backup of the same source, or a record that retires the source (kassett hold retire)",
			}
		}
	}
	return refused
}

// known returns s with its receive time, if the repository has it.
func (g *Guard) known(s *Snapshot) *Snapshot {
	if own := g.byID[s.ID]; own != nil {
		return own
	}
	return s
}

// last returns the snapshot of a source that must stay although it is going, or
// nil when enough stays, or the source is signed off. A snapshot with an odd
// time, which may be made up, is not enough where there is one without.
func (g *Guard) last(list []*Snapshot, going map[kassett.ID]bool) *Snapshot {
	counts := func(s *Snapshot) bool { return good(s) && !s.Odd() }
	if !slices.ContainsFunc(list, counts) {
		counts = good
	}
	if !slices.ContainsFunc(list, counts) {
		counts = func(*Snapshot) bool { return true } // better than none
	}
	var youngest *Snapshot
	for _, s := range list {
		switch {
		case !counts(s):
		case !going[s.ID]:
			return nil
		case !g.retired(s) && (youngest == nil || !s.countedAt().Before(youngest.countedAt())):
			youngest = s
		}
	}
	return youngest
}

// held returns why a floor or a hold keeps a snapshot, or nil.
func (g *Guard) held(s *Snapshot) error {
	var why, lift []string
	for i := range g.records {
		rec := &g.records[i]
		if w := g.keeps(rec, s); w != "" {
			why = append(why, fmt.Sprintf("%s (%s, by %s)", w, rec.Reason, strings.Join(rec.By, ", ")))
			lift = append(lift, fmt.Sprintf("a lift of record %s, in the names of two persons", rec.ID.Short()))
		}
	}
	if len(why) == 0 {
		return nil
	}
	return &kassett.Error{
		Op: "remove snapshot", What: s.ID.Short(), Kind: kassett.Held,
		Err: errors.New(strings.Join(why, "; ")), Hint: "what would let it go: " + strings.Join(lift, "; and "),
	}
}

// retired reports whether the source was signed off after the snapshot.
func (g *Guard) retired(s *Snapshot) bool {
	return slices.ContainsFunc(g.records, func(rec record.Record) bool {
		return rec.Kind == record.Retire && s.countedAt().Before(rec.Created) && about(&rec.Subject, s)
	})
}

// Replacement returns why a snapshot must not be replaced by another with the
// same content: a record that keeps the old one would not keep the new one. It
// is a [kassett.Held] error, or nil.
func (g *Guard) Replacement(s, by *Snapshot) error {
	if s = g.known(s); !s.Received.IsZero() && by.Received.IsZero() {
		stored := *by // as it will be
		stored.Received = g.now
		by = &stored
	}
	for i := range g.records {
		rec := &g.records[i]
		if g.keeps(rec, s) != "" && g.keeps(rec, by) == "" {
			return &kassett.Error{
				Op: "change snapshot", What: s.ID.Short(), Kind: kassett.Held,
				Err:  fmt.Errorf("%s, and would no longer (%s, by %s)", g.keeps(rec, s), rec.Reason, strings.Join(rec.By, ", ")),
				Hint: fmt.Sprintf("what would allow it: a lift of record %s, in the names of two persons", rec.ID.Short()),
			}
		}
	}
	return nil
}

// ForgetOptions say what [PlanForget] plans.
type ForgetOptions struct {
	Filter Filter
	IDs    []string // explicitly named snapshots; the policy is then not asked
	Policy Policy
	Group  GroupBy
	// AllowRemoveAll lets an empty policy remove all that Filter chooses.
	AllowRemoveAll bool
}

// ForgetGroup is the plan for one group.
type ForgetGroup struct {
	GroupKey
	Decisions []Decision // youngest first
}

// ForgetPlan is what would be kept and removed.
type ForgetPlan struct {
	Groups []ForgetGroup
	PutOff []PutOff // set by Remove
}

// PutOff is a snapshot that the storage retains until a time.
type PutOff struct {
	Snapshot *Snapshot
	Until    time.Time
}

// PlanForget decides what to forget, under the floors and holds of the
// repository's records and the rule that the last good snapshot of a source is
// never removed. Snapshots that IDs name and a guard keeps are a
// [kassett.Held] error that names each of them, and nothing is planned. A policy
// without a rule, or one that would keep nothing of a group, is
// [kassett.Invalid]. The caller holds a lock of the mode [repo.Forgetting], or only
// looks.
func PlanForget(ctx context.Context, r *repo.Repository, o ForgetOptions) (*ForgetPlan, error) {
	now := time.Now()
	if len(o.IDs) == 0 {
		if err := o.check(); err != nil {
			return nil, err
		}
	}
	list, err := FindAll(ctx, r, o.Filter, o.IDs)
	if err != nil {
		return nil, err
	}
	guard, err := LoadGuard(ctx, r, now)
	if err != nil {
		return nil, err
	}
	if len(o.IDs) > 0 {
		return planNamed(guard, list)
	}
	plan := &ForgetPlan{}
	for _, g := range Groups(list, o.Group) {
		decisions := o.Policy.Apply(g.Snapshots, now)
		if !o.Policy.Empty() && !slices.ContainsFunc(decisions, func(d Decision) bool { return d.Keep }) {
			return nil, &kassett.Error{
				Op: "forget", What: g.Key.String(), Kind: kassett.Invalid, Err: errors.New("the policy would keep no snapshot"),
				Hint: "add a rule that keeps some, such as --keep-last 1",
			}
		}
		plan.Groups = append(plan.Groups, ForgetGroup{GroupKey: g.Key, Decisions: decisions})
	}
	refused := guard.Removals(plan.Removals())
	for _, g := range plan.Groups {
		for i := range g.Decisions {
			d := &g.Decisions[i]
			if err := refused[d.Snapshot.ID]; err != nil {
				d.Keep, d.Guarded = true, err
			}
		}
	}
	return plan, nil
}

// check judges the options of a policy.
func (o *ForgetOptions) check() error {
	if err := o.Policy.Check(); err != nil {
		return err
	}
	switch {
	case !o.Policy.Empty():
		return nil
	case !o.AllowRemoveAll:
		return &kassett.Error{
			Op: "forget", Kind: kassett.Invalid, Err: errors.New("no policy was given, so nothing is removed"),
			Hint: "say what to keep, such as --keep-daily 7, or name snapshots",
		}
	case o.Filter.Empty():
		return &kassett.Error{
			Op: "forget", Kind: kassett.Invalid, Err: errors.New("this would remove every snapshot"),
			Hint: "choose some by host, tag or path",
		}
	}
	return nil
}

// planNamed plans the removal of snapshots that were named.
func planNamed(guard *Guard, list []*Snapshot) (*ForgetPlan, error) {
	var held []error
	g := ForgetGroup{}
	refused := guard.Removals(list)
	for _, s := range list {
		if err := refused[s.ID]; err != nil {
			held = append(held, err)
		}
		g.Decisions = append(g.Decisions, Decision{Snapshot: s})
	}
	if len(held) == 1 {
		return nil, held[0]
	}
	if len(held) > 1 {
		hints := make([]string, len(held))
		for i, err := range held {
			hints[i] = kassett.HintOf(err)
		}
		return nil, &kassett.Error{
			Op: "forget", Kind: kassett.Held, Err: errors.Join(held...), Hint: strings.Join(slices.Compact(hints), "\n"),
		}
	}
	return &ForgetPlan{Groups: []ForgetGroup{g}}, nil
}

// Removals returns the snapshots that the plan does not keep.
func (p *ForgetPlan) Removals() []*Snapshot {
	var list []*Snapshot
	for _, g := range p.Groups {
		for _, d := range g.Decisions {
			if !d.Keep {
				list = append(list, d.Snapshot)
			}
		}
	}
	return list
}

// Remove deletes the snapshots that the plan does not keep and returns their
// IDs. It goes on after one that cannot be deleted; those that the storage
// retains are no error, but put off. The caller holds an exclusive lock since
// before the plan was made.
func (p *ForgetPlan) Remove(ctx context.Context, r *repo.Repository, pr *kassett.Progress) ([]kassett.ID, error) {
	list := p.Removals()
	pr.Enter("remove snapshots")
	pr.Expect(int64(len(list)), 0)
	var removed []kassett.ID
	var bad []error
	for _, s := range list {
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		err := r.Delete(ctx, kassett.SnapshotFile, s.ID)
		if held, ok := errors.AsType[*kassett.HeldError](err); ok {
			p.PutOff = append(p.PutOff, PutOff{s, held.Until})
			continue
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("remove snapshot %s: %w", s.ID.Short(), err))
			continue
		}
		removed = append(removed, s.ID)
		pr.Done(1, 0)
	}
	return removed, errors.Join(bad...)
}
