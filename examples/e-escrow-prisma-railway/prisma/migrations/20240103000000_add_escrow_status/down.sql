DROP INDEX "escrows_status_idx";
ALTER TABLE "escrows" DROP COLUMN "status";
DROP TYPE "EscrowStatus";
