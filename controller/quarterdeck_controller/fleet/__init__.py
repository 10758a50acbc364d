"""Who belongs to the fleet: enrolment, inventory, presence, assignments."""
