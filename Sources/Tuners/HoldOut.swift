public import Kernel

/// Which namespaces are left untouched, so that those that are tuned can be
/// compared with them.
public struct HoldOut: Sendable, Equatable {
  /// 0 to 1.
  public let share: Double
  private let boot: String

  public init(share: Double, boot: String) {
    self.share = share
    self.boot = boot
  }

  public static let none = HoldOut(share: 0, boot: "")

  /// The same answer for a namespace all its life, and another draw each boot.
  public func includes(_ id: NamespaceID) -> Bool {
    guard share > 0 else { return false }
    // FNV-1a, and a mix at the end since the inputs differ in few bits.
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in "\(boot) \(id.cookie) \(id.inode)".utf8 {
      hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
    }
    hash ^= hash >> 32
    hash = hash &* 0x9e37_79b9_7f4a_7c15
    return Double(hash >> 11) / Double(1 << 53) < share
  }
}

/// What steps brought, and what became of those who did without.
public struct Effects: Sendable, Equatable {
  /// The rate a while after by the rate at the step; the latest.
  public private(set) var tuned: [Double] = []
  public private(set) var heldOut: [Double] = []
  public private(set) var kept = 0
  public private(set) var takenBack = 0
  public private(set) var unclear = 0
  private static let most = 1000

  public init() {}

  mutating func add(_ finding: Finding, heldOut isHeldOut: Bool) {
    if let gain = finding.gain {
      if isHeldOut { Self.add(gain, to: &heldOut) } else { Self.add(gain, to: &tuned) }
    }
    guard !isHeldOut else { return }
    switch finding.verdict {
    case .kept: kept += 1
    case .worse: takenBack += 1
    case .unclear: unclear += 1
    }
  }

  private static func add(_ gain: Double, to list: inout [Double]) {
    if list.count >= most { list.removeFirst(most / 2) }
    list.append(gain)
  }

  /// Half of them are no more, the lower one of two in the middle; nil without
  /// any.
  public static func median(_ list: [Double]) -> Double? {
    list.isEmpty ? nil : list.sorted()[(list.count - 1) / 2]
  }

  /// `4.1 times the rate (median of 12), 1.0 times where held out (median of 3)`.
  public var description: String {
    var parts: [String] = []
    if let median = Self.median(tuned) {
      parts.append("\(Self.times(median)) the rate before (median of \(tuned.count))")
    }
    if let median = Self.median(heldOut) {
      parts.append("\(Self.times(median)) where held out (median of \(heldOut.count))")
    }
    return parts.joined(separator: ", ")
  }

  private static func times(_ gain: Double) -> String {
    let hundredths = Int((min(gain, 1e6) * 100).rounded())
    let rest = hundredths % 100
    return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest) times"
  }
}
