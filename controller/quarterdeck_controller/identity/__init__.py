"""Who may speak to the fleet: invitations, certificates, revocations, admissions."""
