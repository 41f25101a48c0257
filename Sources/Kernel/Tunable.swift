/// A kernel parameter under /proc/sys.
public struct Tunable: Hashable, Sendable {
  /// What its file holds.
  public enum Arity: Sendable {
    case scalar
    /// Minimum, starting value and maximum, as of `tcp_rmem`.
    case triple
    case text
  }

  /// Where one value of it counts.
  public enum Scope: Sendable {
    case perNamespace
    /// The whole machine; can be set from the init namespace only.
    case global
  }

  /// As sysctl(8) writes it: `net.ipv4.tcp_rmem`.
  public let name: String
  /// Its path below /proc/sys: `net/ipv4/tcp_rmem`.
  public let path: String
  public let arity: Arity
  public let scope: Scope
  /// What the kernel takes, for each number.
  public let bounds: ClosedRange<Int64>

  public init(_ name: String, _ arity: Arity, _ scope: Scope, bounds: ClosedRange<Int64>) {
    self.name = name
    path = String(
      decoding: name.utf8.map { $0 == UInt8(ascii: ".") ? UInt8(ascii: "/") : $0 }, as: UTF8.self)
    self.arity = arity
    self.scope = scope
    self.bounds = bounds
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
    guard arity != .text else {
      self = .text(text.split(whereSeparator: \.isWhitespace).joined(separator: " "))
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
  public func overwritten(by text: some StringProtocol) -> SysctlValue? {
    switch self {
    case .text: return SysctlValue(text, arity: .text)
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
