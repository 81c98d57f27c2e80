ALTER TABLE "users" DROP COLUMN "kyc_status", DROP COLUMN "display_name";
