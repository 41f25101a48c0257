import Kernel
public import State

extension NetworkNamespace {
  /// Goes on with what a daemon before this one changed; nil when it is not
  /// the daemon's any more.
  public func takeUp(_ holding: Holding, afterCrash: Bool) async -> Holding? {
    let tunable = holding.tunable
    let current = try? await visit { () throws(Sysctl.Failure) in try Sysctl.read(tunable) }
    guard let current else {
      await around.journal.release(holding)
      return nil
    }
    switch holding.standing(of: current) {
    case .ours(let value): return await around.journal.takeUp(holding, at: value)
    case .original: await around.journal.isOriginal(holding)
    case .someoneElses where afterCrash:
      for owner in tunable.owners.union([holding.tuner]).sorted() {
        await disable(
          owner,
          AdministratorWrite(
            tunable: tunable, tuner: owner, process: 0, command: "", old: "\(holding.written)",
            new: "\(current)"))
      }
    case .someoneElses: await around.journal.release(holding)
    }
    return nil
  }

  /// An administrator's write that an earlier daemon has seen still counts.
  public func recall(_ write: AdministratorWrite) {
    disabled[write.tuner] = disabled[write.tuner] ?? write
  }
}
