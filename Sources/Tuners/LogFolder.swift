/// Folds log lines that repeat: so many of a kind a minute, then only counted,
/// and the next one that is let through says how many were not.
struct LogFolder {
  private struct Kind {
    var since: ContinuousClock.Instant
    var count = 0
    var left = 0
  }

  private var kinds: [String: Kind] = [:]
  private static let window = Duration.seconds(60)
  private static let mostKinds = 64

  /// Nil when the line is to be left out; else what to add to it.
  mutating func admit(
    _ kind: String, most: Int = 10, now: ContinuousClock.Instant = .now
  ) -> String? {
    if kinds.count >= Self.mostKinds, kinds[kind] == nil { kinds.removeAll() }
    var state = kinds[kind] ?? Kind(since: now)
    var note = ""
    if state.since.duration(to: now) > Self.window {
      if state.left > 0 { note = " (and \(state.left) like it before)" }
      state = Kind(since: now)
    }
    state.count += 1
    if state.count > most { state.left += 1 }
    kinds[kind] = state
    return state.count > most ? nil : note
  }
}
