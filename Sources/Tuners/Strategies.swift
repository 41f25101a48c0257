/// Several ways to tune, of which the best goes on.
///
/// Each is tried for its time, one after the other, and scored by its own
/// evaluation at the end of it. The best stays, and is evaluated again now and
/// then; only when it does worse or better by far than when it was chosen has
/// something changed, and the others are tried again. It is a value without input
/// or output: times and scores are told to it, so it runs no timer, and what does
/// not happen is not tried.
public struct Strategies: Sendable, Equatable {
  /// Times in nanoseconds.
  public struct Rules: Sendable, Equatable {
    /// How long each is tried.
    public var trial: UInt64 = 30_000_000_000
    /// How long the best goes on before it is evaluated again.
    public var term: UInt64 = 600_000_000_000
    /// By which part of its score another has to be better, and by which part
    /// a score has to differ from the one before for something to have changed.
    public var margin = 0.1
    public var change = 0.25

    public init() {}
  }

  /// How many there are; more than one.
  public let count: Int
  /// The one to tune by.
  public private(set) var current = 0
  /// At its last trial or evaluation; nil for one that was not tried.
  public private(set) var scores: [Double?]
  /// Not on trial: the best of the last round.
  public private(set) var isSettled = false
  private let rules: Rules
  /// When the one that is in force began.
  private var began: UInt64?
  /// Still to be tried in this round.
  private var untried: [Int]

  public init(count: Int, rules: Rules = Rules()) {
    self.count = count
    self.rules = rules
    scores = [Double?](repeating: nil, count: count)
    untried = Array(1..<max(1, count))
  }

  /// Whether the one in force has had its time and is to be evaluated: to be
  /// asked when something happens, before that is acted upon.
  public mutating func isDue(at time: UInt64) -> Bool {
    guard let began else {
      self.began = time
      return false
    }
    return time >= began && time - began >= (isSettled ? rules.term : rules.trial)
  }

  /// The score of the one in force, more is better; which is in force then
  /// stands in `current`.
  public mutating func learn(score: Double, at time: UInt64) {
    let before = scores[current]
    scores[current] = score
    began = time
    guard isSettled else { return next() }
    guard let before, abs(score - before) > rules.change * abs(before) else { return }
    // What the others scored was under other circumstances.
    untried = (0..<count).filter { $0 != current }
    for index in untried { scores[index] = nil }
    isSettled = false
    next()
  }

  private mutating func next() {
    guard untried.isEmpty else {
      current = untried.removeFirst()
      return
    }
    isSettled = true
    // The one that was tried first stays, unless another is clearly better.
    for index in 0..<count {
      guard let score = scores[index], let best = scores[current] else { continue }
      if score > best { current = index }
    }
    guard current != 0, let first = scores[0], let best = scores[current] else { return }
    if best - first <= rules.margin * abs(first) { current = 0 }
  }
}
