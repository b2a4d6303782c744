package storage

// Medium is what a folder rests on, as far as it decides how many calls pay
// side by side.
type Medium uint8

// The media.
const (
	UnknownMedium Medium = iota
	FlashMedium          // without heads to move
	SlowMedium           // a spinning disk, or one on USB: one reader at a time
	NetworkMedium        // a share of another machine
)

// String returns a word for people.
func (m Medium) String() string {
	return [...]string{"unknown", "flash", "spinning or USB disk", "network share"}[m]
}

// Connections returns how many calls side by side are good on the medium; where
// that is not known as many as restic makes.
func (m Medium) Connections() int {
	switch m {
	case SlowMedium:
		return 1
	case NetworkMedium, FlashMedium:
		return 8
	default:
		return 5
	}
}
