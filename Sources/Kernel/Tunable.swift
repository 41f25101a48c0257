/// A kernel parameter under /proc/sys.
public struct Tunable: Hashable, Sendable {
  /// What its file holds.
  public enum Arity: Sendable {
    case scalar
    /// Minimum, starting value and maximum, as of `tcp_rmem`.
    case triple
    case text
    /// Words in any order, as of `tcp_allowed_congestion_control`.
    case words
  }

  /// Where one value of it counts.
  public enum Scope: Sendable {
    case perNamespace
    /// The whole machine; can be set from the init namespace only.
    case global
  }

  /// How it is written. All are read from their file.
  public enum Means: Sendable {
    /// Into its file under /proc/sys.
    case file
    /// `gc_thresh1` to `gc_thresh3` of a neighbour table, by netlink.
    case neighbourTable(NeighbourTable, threshold: Int)
    /// Into its file, once the modules of the algorithms in it are loaded.
    case congestionControls
  }

  /// As sysctl(8) writes it: `net.ipv4.tcp_rmem`. A device whose name has dots
  /// in it has slashes here: `net.ipv4.conf.eth0/100.arp_accept`.
  public let name: String
  /// Its path below /proc/sys: `net/ipv4/tcp_rmem`.
  public let path: String
  public let arity: Arity
  public let scope: Scope
  /// What the kernel takes, for each number.
  public let bounds: ClosedRange<Int64>
  public let means: Means

  public init(
    _ name: String, _ arity: Arity, _ scope: Scope, bounds: ClosedRange<Int64>,
    means: Means = .file
  ) {
    self.name = name
    let (dot, slash) = (UInt8(ascii: "."), UInt8(ascii: "/"))
    let bytes = name.utf8.map { $0 == dot ? slash : $0 == slash ? dot : $0 }
    path = String(decoding: bytes, as: UTF8.self)
    self.arity = arity
    self.scope = scope
    self.bounds = bounds
    self.means = means
  }

  /// The tunable of one device, where the name has `*` for any. A name that
  /// has dots in it is written with slashes, as sysctl(8) does.
  public func of(device: String) -> Tunable {
    let written = device.map { $0 == "." ? "/" : $0 == "/" ? "." : String($0) }.joined()
    return Tunable(
      name.split(separator: ".").map { $0 == "*" ? written : String($0) }.joined(separator: "."),
      arity, scope, bounds: bounds, means: means)
  }

  /// The device in the path of a tunable whose name has `*` in this place; nil
  /// when the path is of another tunable, or of `all` devices or the `default`
  /// of new ones.
  public func device(inPath path: String) -> String? {
    let parts = path.split(separator: "/")
    let pattern = self.path.split(separator: "/")
    guard parts.count == pattern.count,
      zip(parts, pattern).allSatisfy({ $0 == $1 || $1 == "*" })
    else { return nil }
    guard let device = zip(parts, pattern).first(where: { $1 == "*" })?.0,
      device != "all", device != "default"
    else { return nil }
    return String(device)
  }

  /// Whether people mean it by this: its name, its path, or the last part.
  public func isCalled(_ text: String) -> Bool {
    text == name || text == path || name.hasSuffix("." + text)
  }

  /// A write by netlink is no write to a file: no hook tells of it.
  public var isWrittenByNetlink: Bool {
    if case .neighbourTable = means { true } else { false }
  }

  /// Under which name its writes are watched (bpf/sysctl_watch.bpf.c): what
  /// every device has goes by the last part alone.
  var watchedName: String {
    guard let last = path.split(separator: "/").last, path.contains("*") else { return path }
    return "*/" + last
  }

  public static func == (a: Tunable, b: Tunable) -> Bool { a.name == b.name }
  public func hash(into hasher: inout Hasher) { hasher.combine(name) }
}

/// The value of a tunable, as numbers where it consists of numbers.
public enum SysctlValue: Hashable, Sendable, CustomStringConvertible {
  case scalar(Int64)
  case triple(minimum: Int64, initial: Int64, maximum: Int64)
  case text(String)

  /// What the kernel prints for it, without the tabs: `4096 16384 4194304`.
  public var description: String {
    switch self {
    case .scalar(let number): "\(number)"
    case .triple(let minimum, let initial, let maximum): "\(minimum) \(initial) \(maximum)"
    case .text(let text): text
    }
  }

  /// Reads the text of a sysctl file; nil when it is not of that arity.
  public init?(_ text: some StringProtocol, arity: Tunable.Arity) {
    switch arity {
    case .scalar, .triple: break
    case .text, .words:
      let words = text.split(whereSeparator: \.isWhitespace)
      self = .text((arity == .words ? words.sorted() : words).joined(separator: " "))
      return
    }
    guard let numbers = Self.numbers(in: text) else { return nil }
    switch (arity, numbers.count) {
    case (.scalar, 1): self = .scalar(numbers[0])
    case (.triple, 3):
      self = .triple(minimum: numbers[0], initial: numbers[1], maximum: numbers[2])
    default: return nil
    }
  }

  /// What the value would be after `text` is written to its file. The kernel
  /// leaves the rest of a triple alone when fewer than three numbers come
  /// (`proc_dointvec` in kernel/sysctl.c). Nil when `text` is no such value.
  /// `arity` tells words from other text.
  public func overwritten(
    by text: some StringProtocol, arity: Tunable.Arity = .text
  ) -> SysctlValue? {
    switch self {
    case .text: return SysctlValue(text, arity: arity)
    case .scalar: return SysctlValue(text, arity: .scalar)
    case .triple(let minimum, let initial, let maximum):
      guard let numbers = Self.numbers(in: text), (1...3).contains(numbers.count) else {
        return nil
      }
      let all = numbers + [minimum, initial, maximum][numbers.count...]
      return .triple(minimum: all[0], initial: all[1], maximum: all[2])
    }
  }

  /// The largest number: the maximum of a triple, or the scalar itself.
  public var maximum: Int64? {
    switch self {
    case .scalar(let number), .triple(_, _, let number): number
    case .text: nil
    }
  }

  /// The same value with another `maximum`.
  public func with(maximum: Int64) -> SysctlValue {
    switch self {
    case .scalar: .scalar(maximum)
    case .triple(let minimum, let initial, _):
      .triple(minimum: minimum, initial: initial, maximum: maximum)
    case .text: self
    }
  }

  /// The numbers in it; none where it is text.
  public var numbers: [Int64] {
    switch self {
    case .scalar(let number): [number]
    case .triple(let minimum, let initial, let maximum): [minimum, initial, maximum]
    case .text: []
    }
  }

  /// Works on bytes, since it stands on the way from an event to a change.
  private static func numbers(in text: some StringProtocol) -> [Int64]? {
    var numbers: [Int64] = []
    for word in text.utf8.split(whereSeparator: { $0 <= UInt8(ascii: " ") }) {
      guard let number = Int64(String(decoding: word, as: UTF8.self)) else { return nil }
      numbers.append(number)
    }
    return numbers
  }
}

/// What of a value a decision is about; the rest stays as it is.
public enum SysctlPart: Hashable, Sendable, CustomStringConvertible {
  /// The largest number: the maximum of a triple, or the scalar itself.
  case maximum(Int64)
  /// The second number of a triple: the starting value.
  case initial(Int64)
  /// Whether a word is among those of the value.
  case word(String, isThere: Bool)
  case whole(SysctlValue)

  /// Whether `value` holds it.
  public func holds(in value: SysctlValue) -> Bool { value.with(self) == value }

  /// The numbers that it sets.
  public var numbers: [Int64] {
    switch self {
    case .maximum(let number), .initial(let number): [number]
    case .word: []
    case .whole(let value): value.numbers
    }
  }

  /// The number that it is about: of a whole triple the maximum, of text 0.
  public var number: Int64 { numbers.last ?? 0 }

  public var description: String {
    switch self {
    case .maximum(let number), .initial(let number): "\(number)"
    case .word(let word, let isThere): isThere ? "with \(word)" : "without \(word)"
    case .whole(let value): "\(value)"
    }
  }
}

extension SysctlValue {
  /// The same value with that part of it replaced; the value itself where it
  /// has no such part.
  public func with(_ part: SysctlPart) -> SysctlValue {
    switch (part, self) {
    case (.maximum(let number), _): return with(maximum: number)
    case (.initial(let number), .triple(let minimum, _, let maximum)):
      return .triple(minimum: minimum, initial: number, maximum: maximum)
    case (.initial, _): return self
    case (.word(let word, let isThere), .text(let text)):
      let others = text.split(separator: " ").map(String.init).filter { $0 != word }
      let words = isThere ? (others + [word]).sorted() : others
      return .text(words.joined(separator: " "))
    case (.word, _): return self
    case (.whole(let value), _): return value
    }
  }
}
