package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

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
}

// PlanForget decides what to forget, under the floors and holds of the
// repository's records and the rule that the last good snapshot of a source is
// never removed. Snapshots that IDs name and a guard keeps are a
// [kassett.Held] error. The caller holds an exclusive lock, or only looks.
func PlanForget(ctx context.Context, r *repo.Repository, o ForgetOptions) (*ForgetPlan, error) {
	return nil, errors.ErrUnsupported
}

// Remove deletes the snapshots that the plan does not keep and returns their
// IDs. The caller holds an exclusive lock since before the plan was made.
func (p *ForgetPlan) Remove(ctx context.Context, r *repo.Repository, pr *kassett.Progress) ([]kassett.ID, error) {
	return nil, errors.ErrUnsupported
}
