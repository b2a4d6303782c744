package mount

import "time"

// AgeIndex makes the index look as if it had been loaded long ago.
func (v *View) AgeIndex() {
	v.indexMu.Lock()
	defer v.indexMu.Unlock()
	v.index = time.Time{}
}
