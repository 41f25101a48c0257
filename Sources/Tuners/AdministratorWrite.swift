public import Kernel

/// A write by someone else that changed a tunable of a tuner.
public struct AdministratorWrite: Sendable, Equatable, CustomStringConvertible {
  public let tunable: Tunable
  public let tuner: String
  /// 0 when the write itself was not seen, only what it left.
  public let process: Int32
  public let command: String
  /// Nil for one of so many writes that they were not looked at one by one.
  public let old: String?
  public let new: String?

  public init(
    tunable: Tunable, tuner: String, process: Int32, command: String, old: String?,
    new: String?
  ) {
    self.tunable = tunable
    self.tuner = tuner
    self.process = process
    self.command = command
    self.old = old
    self.new = new
  }

  public var description: String {
    let words = { (text: String) in
      text.split(whereSeparator: \.isWhitespace).joined(separator: " ")
    }
    let who = process == 0 ? "someone" : "pid \(process) (\(command))"
    guard let old, let new else { return "\(who) sets tunables hundreds of times a second" }
    return "\(who) set \(tunable.name) from \(words(old)) to \(words(new))"
  }
}
