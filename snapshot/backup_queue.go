package snapshot

import "sync"

// queue hands work to the workers of a backup. It holds little: a folder stands
// for all its files that must be read, folders to be listed are taken youngest
// first, and pieces of large files are only taken in while there is room: a
// worker that reads one takes it too, so that nobody hands out what all others
// have no time for, and the memory of parts is bounded.
type queue struct {
	mu     sync.Mutex
	wake   sync.Cond
	parts  []*part   // pieces of files to be saved
	files  []*folder // with at least one index in todo
	dirs   []*folder // to be listed
	room   int       // for how many more parts and large files being read
	closed bool
}

// task is one thing to do; exactly one of its fields is set.
type task struct {
	part *part
	file *fileJob
	dir  *folder
}

func (q *queue) init(room int) {
	q.wake.L = &q.mu
	q.room = room
}

// take returns the next task: what is nearest to being finished goes first. It
// waits while there is none, and returns false when the queue is closed.
func (q *queue) take() (task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed {
		if n := len(q.parts); n > 0 {
			p := q.parts[0]
			q.parts = append(q.parts[:0], q.parts[1:]...)
			return task{part: p}, true
		}
		if n := len(q.files); n > 0 {
			f := q.files[n-1]
			j := &fileJob{folder: f, index: int(f.todo[0])}
			if f.todo = f.todo[1:]; len(f.todo) == 0 {
				q.files[n-1] = nil
				q.files = q.files[:n-1]
			}
			return task{file: j}, true
		}
		if n := len(q.dirs); n > 0 {
			f := q.dirs[n-1]
			q.dirs[n-1] = nil
			q.dirs = q.dirs[:n-1]
			return task{dir: f}, true
		}
		q.wake.Wait()
	}
	return task{}, false
}

// reserve asks for room for one part. Whoever gets it calls pushPart, and whoever
// takes the part calls unreserve when its memory is free again.
func (q *queue) reserve() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.room <= 0 {
		return false
	}
	q.room--
	return true
}

// read notes that a worker begins to read a large file; it calls unreserve when
// it has finished.
func (q *queue) read() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.room--
}

func (q *queue) unreserve() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.room++
}

// pushPart takes in a part for which there is room.
func (q *queue) pushPart(p *part) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.parts = append(q.parts, p)
	q.wake.Signal()
}

// pushFiles takes in the files of a folder that must be read, if any.
func (q *queue) pushFiles(f *folder) {
	if len(f.todo) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.files = append(q.files, f)
	q.wake.Broadcast()
}

// pushDirs takes in folders to be listed; the last one is listed first.
func (q *queue) pushDirs(dirs []*folder) {
	if len(dirs) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dirs = append(q.dirs, dirs...)
	q.wake.Broadcast()
}

// close ends every take.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake.Broadcast()
}
